-- history: the created seq and id of every item kept, live and gone; the process sorts, pages and fetches. Read only.
-- KEYS 1 state  2 live by seq  3 gone by seq
-- ARGV 1 history entries  2 bodies
-- Returns {ids, created seqs, over ("1": collect, more gone items or bodies are kept than may be)}, ids in no order.
-- Cost O(items kept), 10,000 at most by the bound.
local ids, seqs, gone = {}, {}, {}
local live = call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #live, 2 do
  local k = #ids + 1
  ids[k], seqs[k] = sub(live[i], 1, string.find(live[i], '\0', 1, true) - 1), live[i+1]
end
local out = call('ZRANGE', KEYS[3], 0, -1)
for a = 1, #out, 2000 do
  local want = {}
  for i = a, math.min(a + 1999, #out) do
    if not string.find(out[i], '\0', 1, true) then want[#want+1] = out[i] end
  end
  if #want > 0 then
    local raws = call('HMGET', KEYS[1], unpack(want))
    for j = 1, #want do
      if raws[j] and sub(raws[j], 1, 1) == 'G' then
        local k = #ids + 1
        local _, created = upk('>I5I5', raws[j], 2)
        ids[k], seqs[k] = want[j], string.format('%.0f', created)
        gone[#gone+1] = want[j]
      end
    end
  end
end
-- bodies go oldest first: where the newest one that may have none has none, all older ones have none
local over = #gone > tonumber(ARGV[1])
local bare = gone[#gone - tonumber(ARGV[2])]
if bare and not over then
  local raw = call('HGET', KEYS[1], bare)
  local inner = 21 + upk('B', raw, 20)
  over = sub(raw, inner, inner) == 'L'
end
return {ids, seqs, over and '1' or ''}
