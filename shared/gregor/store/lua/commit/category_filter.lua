-- category_filter: The part that scripts begin with, after codec, if they read the items of some categories only.
-- The filter is packed as in gregor/core/category_filter.py: prefixes joined by commas, "" for all categories.
-- Returns a function that returns true for a wanted category. Each beginning of a category is looked up: comparing 100
-- prefixes with 10,000 categories would take 0.2 s.
local function category_filter(filter)
  if filter == '' then return function() return true end end
  local known = {}
  for prefix in string.gmatch(filter, '[^,]+') do known[prefix] = true end
  return function(category)
    local wanted = known[category]
    if wanted == nil then
      wanted = false
      local at = string.find(category, '.', 1, true)
      while at and not wanted do
        wanted = known[sub(category, 1, at - 1)] == true
        at = string.find(category, '.', at + 1, true)
      end
      known[category] = wanted
    end
    return wanted
  end
end
-- Return the category of a gone record; without a body it has no leaf.
local function category_of_gone(raw)
  local at = 21 + string.byte(raw, 20)
  local begin = at + (sub(raw, at, at) == 'L' and 62 or 30)
  return sub(raw, begin, begin + string.byte(raw, at + 20) - 1)
end
