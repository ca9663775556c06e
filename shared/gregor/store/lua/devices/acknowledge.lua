-- acknowledge: Record that a view showed its user everything up to a seq. The seq never decreases. One above that of the user
-- is ignored: a device may acknowledge changes that a failover has lost.
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- KEYS    1 acknowledgements  2 the newest acknowledgements with their times  3 state; for webhooks also: 4 agenda  5 due
--         users of the partition  6 live items by seq  7 bucket of acknowledged items
-- ARGV    1 device  2 the view's category filter  3 seq  4 the most views of a device  5 the most devices  6 now µs
--         7 how many times are kept  8 their lifetime ms  9 uid  10 due entries of the user from which it is ignored
--         11 step of the bucket µs  12 capacity of the bucket µs  13 items that an acknowledgement counts for in addition
--         14 the most prefixes of the views of a device
-- Returns 1 if the seq increased, else 0. Beyond the most views of the device, or their most prefixes, the views
--         acknowledged the longest ago are removed; beyond the most devices, the device with the lowest seq. This can
--         only cause an unneeded push, and webhook events again.
--         With an agenda in KEYS, it gets an entry k: device NUL filter NUL from NUL to. The filter has only the prefixes
--         with seqs that no view of the device has acknowledged; without any, no entry is made. If too much work of the
--         user is due already, or the bucket lacks the items, nothing is recorded: the next acknowledgement covers them.
-- Cost    O(prefixes of the views of the device); O(views of the user) beyond the most devices
local acks_key, recent_key, state_key, agenda_key, due_key, live_key, bucket_key = unpack(KEYS)
local device, filter, seq, most_views, most_devices = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local now, recent_most, lifetime_ms, uid = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local head = call('HGET', state_key, '.h')
if not head then return 0 end
if sub(head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(head)} end
local _, user_seq = unpack_struct(HEAD_FIELDS, head, 2)
if tonumber(seq) > user_seq then return 0 end
-- GCRA, as in deployment/rate_limit.lua: return the new time of the bucket of acknowledged items, nil if it lacks them
local at = tonumber(now)
local function bucket_after(count)
  local step, capacity = tonumber(ARGV[11]), tonumber(ARGV[12])
  local full_at = math.max(tonumber(call('GET', bucket_key) or 0), at) + math.min(count * step, capacity)
  return full_at - capacity <= at and full_at or nil
end
-- a line for each view, the latest acknowledged last: seq, space, filter
local packed, lines, stored = call('HGET', acks_key, device), {}, nil
for line_seq, line_filter in string.gmatch(packed or '', '(%d+) ([^\n]*)\n') do
  if line_filter == filter then stored = line_seq else lines[#lines+1] = line_seq .. ' ' .. line_filter .. '\n' end
end
if stored and tonumber(stored) >= tonumber(seq) then return 0 end
-- return the prefixes of the filter with seqs that no view of the device has acknowledged, and the seq before the lowest
local function unreported()
  if filter == '' or filter == ',' then
    local highest = tonumber(stored or 0)
    if highest >= tonumber(seq) then return {}, nil end
    return {filter}, highest
  end
  -- the seq up to which views of the device acknowledged all categories of a prefix (NUL: all categories)
  local below, kept, since = {}, {}, nil
  for line_seq, line_filter in string.gmatch(packed or '', '(%d+) ([^\n]*)\n') do
    for prefix in string.gmatch(line_filter == '' and '\0' or line_filter, '[^,]+') do
      below[prefix] = math.max(below[prefix] or 0, tonumber(line_seq))
    end
  end
  for prefix in string.gmatch(filter, '[^,]+') do
    local highest, name = below['\0'] or 0, prefix
    while name do
      highest = math.max(highest, below[name] or 0)
      name = string.match(name, '^(.*)%.')
    end
    if highest < tonumber(seq) then
      kept[#kept+1] = prefix; since = math.min(since or highest, highest)
    end
  end
  return kept, since
end
local kept, since
if agenda_key then
  -- Asked before the views are parsed, which costs up to 0.4 ms.
  if call('ZCOUNT', agenda_key, '-inf', now) >= tonumber(ARGV[10]) or not bucket_after(tonumber(ARGV[13])) then return 0 end
  kept, since = unreported()
  if since then
    local full_at = bucket_after(call('ZCOUNT', live_key, string.format('(%.0f', since), seq) + tonumber(ARGV[13]))
    if not full_at then return 0 end
    call('SET', bucket_key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - at) / 1000) + 10000)
  end
end
lines[#lines+1] = seq .. ' ' .. filter .. '\n'
if not packed and call('HLEN', acks_key) >= most_devices then
  local all, lowest, lowest_seq = call('HGETALL', acks_key), nil, nil
  for i = 1, #all, 2 do
    local highest = 0
    for line_seq in string.gmatch(all[i+1], '(%d+) [^\n]*\n') do highest = math.max(highest, tonumber(line_seq)) end
    if not lowest or highest < lowest_seq then lowest, lowest_seq = all[i], highest end
  end
  call('HDEL', acks_key, lowest)
end
local first, prefixes, most_prefixes = math.max(1, #lines - most_views + 1), 0, tonumber(ARGV[14])
-- A prefix takes at least two bytes, so few bytes need no count.
if #(packed or '') + #filter > 2 * most_prefixes then
  for i = #lines, first, -1 do
    local _, commas = string.gsub(lines[i], ',', ',')
    -- An empty filter, or the filter without prefixes (a comma), has none.
    local line_filter = string.match(lines[i], ' (.*)\n')
    prefixes = prefixes + ((line_filter == '' or line_filter == ',') and 0 or commas + 1)
    if prefixes > most_prefixes and i < #lines then first = i + 1; break end
  end
end
call('HSET', acks_key, device, table.concat(lines, '', first))
if call('RPUSH', recent_key, (stored or '0') .. ' ' .. seq .. ' ' .. now .. ' ' .. device .. '\0' .. filter) > tonumber(recent_most) then
  call('LPOP', recent_key)
end
call('PEXPIRE', recent_key, lifetime_ms)
if since then
  call('ZADD', agenda_key, now, 'k' .. device .. '\0' .. table.concat(kept, ',') .. '\0' .. string.format('%.0f', since) .. '\0'
    .. seq)
  call('ZADD', due_key, 'LT', now, uid)
end
return 1
