-- work: what of a user's agenda is due, with the items that it is about. Read only.
-- KEYS 1 agenda  2 state  3 live by seq   ARGV 1 now µs  2 at most so many  3 after so many
-- Returns for each entry, oldest first: member, time µs, live record (kind z: gone record; kind y: either) and created seq
-- ("" both where there is no such item, the seq also of a gone one).
-- Cost O(entries).
local due, out = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', ARGV[3], ARGV[2]), {}
for i = 1, #due, 2 do
  local member = due[i]
  local kind, record, seq = sub(member, 1, 1), '', ''
  if kind == 'z' then
    local raw = call('HGET', KEYS[2], sub(member, 2))
    if raw and sub(raw, 1, 1) == 'G' then record = raw end
  elseif string.find('rpqny', kind, 1, true) then
    local stop = string.find('ny', kind, 1, true) and string.find(member, '\0', 1, true) - 1 or -1
    local id = sub(member, 2, stop)
    local raw = call('HGET', KEYS[2], id)
    if raw and sub(raw, 1, 1) == 'L' then
      record = raw
      seq = call('ZSCORE', KEYS[3], id .. '\0' .. sub(raw, 63, 62 + upk('B', raw, 21)))
    elseif raw and kind == 'y' and sub(raw, 1, 1) == 'G' then record = raw end
  end
  out[#out+1] = member; out[#out+1] = due[i+1]; out[#out+1] = record; out[#out+1] = seq
end
return out
