-- dead_letter_page: Return a page of the dead letters of a partition, the latest first. Read only.
-- KEYS    1 dead letters
-- ARGV    1 the most letters  2 not after µs  3 of that µs, only names below this one  4 not at or before µs
--         5 suffix of the names ("": all)
-- Returns name and time µs of each.
-- Cost    O(log n + entries read); with a suffix also the entries that do not match
local dead_letters_key = KEYS[1]
local most, latest, below_name, oldest, suffix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local call, sub, byte, page = redis.call, string.sub, string.byte, {}
local batch = suffix == '' and tonumber(most) or 100
-- by bytes, as the set is ordered: `<` is by the locale of the server
local function is_below(a, b)
  for i = 1, math.min(#a, #b) do
    if byte(a, i) ~= byte(b, i) then return byte(a, i) < byte(b, i) end
  end
  return #a < #b
end
local start, entries = 0, {}
repeat
  entries = call('ZREVRANGEBYSCORE', dead_letters_key, latest, '(' .. oldest, 'WITHSCORES', 'LIMIT', start, batch)
  start = start + batch
  for i = 1, #entries, 2 do
    local name, at = entries[i], entries[i+1]
    if (tonumber(at) ~= tonumber(latest) or is_below(name, below_name)) and (suffix == '' or sub(name,
        -#suffix) == suffix) then
      page[#page+1] = name
      page[#page+1] = at
      if #page == 2 * most then return page end
    end
  end
until #entries < 2 * batch
return page
