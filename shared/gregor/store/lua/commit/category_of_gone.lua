-- category_of_gone: The part of scripts that read gone items of some categories only.
-- Return the category of a gone record; without a body it has no leaf.
local function category_of_gone(raw)
  local at = 21 + string.byte(raw, 20)
  local begin = at + (sub(raw, at, at) == 'L' and 62 or 30)
  return sub(raw, begin, begin + string.byte(raw, at + 20) - 1)
end
