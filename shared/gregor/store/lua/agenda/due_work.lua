-- due_work: Return the entries of a user's agenda that are due, each with the item it is about. Read only.
-- KEYS    1 agenda  2 state  3 live items by seq  4 traces of items
-- ARGV    1 now µs  2 the most entries  3 how many entries to skip
-- Returns five values for each entry, oldest first: its name, its time µs, the live record of its item (the gone record for a
--         withdrawal, either for a hidden item) and the created seq ("" for both if there is no such item; the seq is also ""
--         for a gone item), and the trace of the message that created a live item ("" if it was not sampled).
-- Cost    O(entries)
local agenda_key, state_key, live_key = KEYS[1], KEYS[2], KEYS[3]
local now, most, skip = ARGV[1], ARGV[2], ARGV[3]
-- Returns the letter of a stored record, nil without one.
local function kind_of(raw)
  local letter = raw and sub(raw, 1, 1)
  if raw and letter ~= 'L' and letter ~= 'G' and letter ~= 'T' then
    error({err = 'UNKNOWNFORMAT record ' .. string.byte(raw)})
  end
  return letter
end
local has_traces = call('EXISTS', KEYS[4]) == 1
local due, entries = call('ZRANGEBYSCORE', agenda_key, '-inf', now, 'WITHSCORES', 'LIMIT', skip, most), {}
for i = 1, #due, 2 do
  local member = due[i]
  local kind, record, seq, trace = sub(member, 1, 1), '', '', ''
  if kind == 'z' then
    local stored = call('HGET', state_key, sub(member, 2))
    if kind_of(stored) == 'G' then record = stored end
  elseif string.find('rpqny', kind, 1, true) then
    local stop = string.find('ny', kind, 1, true) and string.find(member, '\0', 1, true) - 1 or -1
    local id = sub(member, 2, stop)
    local stored = call('HGET', state_key, id)
    local letter = kind_of(stored)
    if letter == 'L' then
      record = stored
      seq = call('ZSCORE', live_key, id .. '\0' .. sub(stored, 63, 62 + unpack_struct('B', stored, 21)))
      if has_traces and kind ~= 'y' then trace = call('HGET', KEYS[4], id) or '' end
    elseif kind == 'y' and letter == 'G' then record = stored end
  end
  entries[#entries+1] = member; entries[#entries+1] = due[i+1]; entries[#entries+1] = record; entries[#entries+1] = seq
  entries[#entries+1] = trace
end
return entries
