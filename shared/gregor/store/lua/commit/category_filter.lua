-- category_filter: The part that scripts begin with, after codec, if they compare categories with a category filter.
-- The filter is packed as in gregor/core/category_filter.py: prefixes joined by commas, "" for all categories.
-- Returns a function that returns true for an allowed category. It looks up each beginning of a category: comparing 100
-- prefixes with 10,000 categories would take 0.2 s. If a category has many segments, it looks up only some beginnings: to
-- look up all 64 of each of 2,000 categories would take 35 ms.
local category_filter
do
  -- A category with more beginnings than FEW_BEGINNINGS is deep. The index of a search is built only after deep categories
  -- have cost as much as it does: LOOK_UPS_OF_A_PREFIX for each prefix.
  local FEW_BEGINNINGS, LOOK_UPS_OF_A_PREFIX = 4, 4
  -- Return a function that returns true if a prefix covers the category; none is equal to it. No prefix of a filter covers
  -- another, so at most one prefix covers the category. A binary search over the lengths of the prefixes finds it: for each
  -- prefix, its beginnings at the lengths on the search path are stored, and lead to longer lengths. (A search in sorted
  -- prefixes would depend on the server's locale.)
  local function make_search(filter)
    -- true: a prefix; false: the beginning of a longer one
    local beginnings, prefixes, lengths, has_length = {}, {}, {}, {}
    for prefix in string.gmatch(filter, '[^,]+') do
      prefix = prefix .. '.'
      prefixes[#prefixes+1], beginnings[prefix] = prefix, true
      if not has_length[#prefix] then has_length[#prefix], lengths[#lengths+1] = true, #prefix end
    end
    table.sort(lengths)
    for i = 1, #prefixes do
      local prefix, low, high = prefixes[i], 1, #lengths
      repeat
        local middle = (low + high - (low + high) % 2) / 2
        local length = lengths[middle]
        if length > #prefix then high = middle - 1
        elseif length < #prefix then
          local beginning = sub(prefix, 1, length)
          beginnings[beginning], low = beginnings[beginning] or false, middle + 1
        end
      until length == #prefix
    end
    return function(category)
      local low, high, found = 1, #lengths, nil
      while low <= high and not found do
        local middle = (low + high - (low + high) % 2) / 2
        found = beginnings[sub(category, 1, lengths[middle])]
        if found == nil then high = middle - 1 else low = middle + 1 end
      end
      return found == true
    end
  end
  function category_filter(filter)
    if filter == '' then return function() return true end end
    local known, look_ups_left, search = {}, 0, nil
    for prefix in string.gmatch(filter, '[^,]+') do
      known[prefix], look_ups_left = true, look_ups_left + LOOK_UPS_OF_A_PREFIX
    end
    return function(category)
      local is_allowed = known[category]
      if is_allowed == nil then
        is_allowed = false
        local at, count = string.find(category, '.', 1, true), 0
        while at and not is_allowed do
          if count >= FEW_BEGINNINGS then
            if look_ups_left <= 0 then
              search = search or make_search(filter)
              is_allowed = search(category)
              break
            end
            look_ups_left = look_ups_left - 1
          end
          is_allowed = known[sub(category, 1, at - 1)] == true
          at, count = string.find(category, '.', at + 1, true), count + 1
        end
        known[category] = is_allowed
      end
      return is_allowed
    end
  end
end
