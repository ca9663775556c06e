-- enqueue_due: Append waiting intents to the stream, or let them wait longer; quarantine what cannot be parsed.
-- KEYS    1 stream  2 waiting intents, by time  3 quarantine
-- ARGV    1 now µs  2 about how many entries the quarantine keeps  3… for each intent: until when it waits µs ("": append
--         it), and the intent as it waits
-- Returns the numbers of appended intents and of intents that wait longer. Intents that are no longer due are left out.
-- Cost    O(intents × log waiting)
local stream_key, waiting_key, quarantine_key = KEYS[1], KEYS[2], KEYS[3]
local now, quarantine_most = tonumber(ARGV[1]), ARGV[2]
local call, appended, delayed = redis.call, 0, 0
for i = 3, #ARGV, 2 do
  local waits_until, member = ARGV[i], ARGV[i+1]
  -- another process may have appended it since it was read, or given it a later time
  local due_at = call('ZSCORE', waiting_key, member)
  local is_due = due_at and tonumber(due_at) <= now
  if is_due and waits_until ~= '' then
    call('ZADD', waiting_key, waits_until, member)
    delayed = delayed + 1
  elseif is_due then
    call('ZREM', waiting_key, member)
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
      appended = appended + 1
    else
      call('XADD', quarantine_key, 'MAXLEN', '~', quarantine_most, '*', 'waited', member)
    end
  end
end
return {appended, delayed}
