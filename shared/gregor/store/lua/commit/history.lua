-- history: Return the created seqs of gone items of some categories. The process reads the names, and sends them in pages:
-- reading all names in one script would block the server for too long (see FEW_NAMES in codec).
-- Read only.
-- KEYS    1 state
-- ARGV    1 category filter ("" all), then names from the gone items
-- Returns for each name its created seq; "o": an item of another category; "": not a gone item. Then the bytes of the records
-- Cost    O(names)
local state_key = KEYS[1]
local filter, count = ARGV[1], #ARGV - 1
local is_wanted, seqs, bytes = category_filter(filter), {}, 0
if count > FEW_NAMES then collectgarbage() end
local raws = call('HMGET', state_key, unpack(ARGV, 2))
for i = 1, count do
  local raw = raws[i]
  local letter = raw and sub(raw, 1, 1)
  -- "L": an unknown id was created after the process had read the names
  if letter and letter ~= 'G' and letter ~= 'T' and letter ~= 'L' then return {err = 'UNKNOWNFORMAT record ' .. string.byte(raw)} end
  seqs[i], bytes = '', bytes + #(raw or '')
  if letter == 'G' then
    local _, created = unpack_struct('>I5I5', raw, 2)
    seqs[i] = (filter == '' or is_wanted(category_of_gone(raw))) and string.format('%.0f', created) or 'o'
  end
end
seqs[count + 1] = bytes
return seqs
