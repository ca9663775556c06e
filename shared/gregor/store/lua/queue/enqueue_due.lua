-- enqueue_due: Append the waiting intents whose time has come to the stream; quarantine what cannot be parsed.
-- KEYS    1 stream  2 waiting intents, by time  3 quarantine
-- ARGV    1 now µs  2 the most intents  3 about how many entries the quarantine keeps
-- Returns the number of intents appended.
-- Cost    O(moved × log waiting)
local stream_key, waiting_key, quarantine_key = KEYS[1], KEYS[2], KEYS[3]
local now, most, quarantine_most = ARGV[1], ARGV[2], ARGV[3]
local call, moved = redis.call, 0
local due = call('ZRANGEBYSCORE', waiting_key, '-inf', now, 'LIMIT', 0, most)
for _, member in ipairs(due) do
  local is_valid, intent = pcall(cjson.decode, member)
  local fields = {}
  if is_valid and type(intent) == 'table' then
    for name, value in pairs(intent) do
      if type(value) == 'string' then
        fields[#fields+1] = name
        fields[#fields+1] = value
      end
    end
  end
  if #fields > 0 then
    call('XADD', stream_key, '*', unpack(fields))
    moved = moved + 1
  else
    call('XADD', quarantine_key, 'MAXLEN', '~', quarantine_most, '*', 'waited', member)
  end
  call('ZREM', waiting_key, member)
end
return moved
