-- history: Return the created seq and id of every stored item of some categories, live and gone; the process sorts, pages
-- and reads them.
-- Read only.
-- KEYS    1 state  2 live items by seq  3 gone items by seq
-- ARGV    1 the most gone items kept  2 the most bodies kept  3 category filter ("" all)
-- Returns {ids, created seqs, "1" if more gone items or bodies are stored than the bounds allow: run `collect`}, ids
-- unordered.
-- Cost    O(stored items), at most 10,000 by the bound
local state_key, live_key, gone_key = KEYS[1], KEYS[2], KEYS[3]
local most_items, most_bodies, filter = ARGV[1], ARGV[2], ARGV[3]
local is_wanted = category_filter(filter)
local ids, seqs, gone = {}, {}, {}
local live = call('ZRANGE', live_key, 0, -1, 'WITHSCORES')
for i = 1, #live, 2 do
  local z = string.find(live[i], '\0', 1, true)
  if is_wanted(sub(live[i], z + 1)) then
    local k = #ids + 1
    ids[k], seqs[k] = sub(live[i], 1, z - 1), live[i+1]
  end
end
local gone_entries = call('ZRANGE', gone_key, 0, -1)
for a = 1, #gone_entries, 2000 do
  local want = {}
  for i = a, math.min(a + 1999, #gone_entries) do
    if not string.find(gone_entries[i], '\0', 1, true) then want[#want+1] = gone_entries[i] end
  end
  if #want > 0 then
    local raws = call('HMGET', state_key, unpack(want))
    for j = 1, #want do
      local letter = raws[j] and sub(raws[j], 1, 1)
      if letter and letter ~= 'G' and letter ~= 'T' then return {err = 'UNKNOWNFORMAT record ' .. string.byte(raws[j])} end
      if letter == 'G' then
        gone[#gone+1] = want[j]
        if filter == '' or is_wanted(category_of_gone(raws[j])) then
          local k = #ids + 1
          local _, created = unpack_struct('>I5I5', raws[j], 2)
          ids[k], seqs[k] = want[j], string.format('%.0f', created)
        end
      end
    end
  end
end
-- bodies are trimmed oldest first: if the newest item beyond the bound has none, all older ones have none
local is_over = #gone > tonumber(most_items)
local newest_without_body = gone[#gone - tonumber(most_bodies)]
if newest_without_body and not is_over then
  local raw = call('HGET', state_key, newest_without_body)
  local at = 21 + unpack_struct('B', raw, 20)
  is_over = sub(raw, at, at) == 'L'
end
return {ids, seqs, is_over and '1' or ''}
