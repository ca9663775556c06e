-- collect: Remove what passed its retention, a bounded number at a time. A delta never becomes wrong by it (L4, L9).
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- KEYS    1 state  2 gone items by seq  3 agenda  4 due users of the partition  5 external messages  6 remembered intervals
-- ARGV    1 now µs  2 retention µs  3 most gone items  4 most bodies  5 body age µs  6 external age µs  7 batch: the most
--         entries to look at  8 uid  9 extra retention of a tombstone µs (L4: accepted + 1 h)
-- Returns {number removed, "1" if it must be called again}
-- Cost    O(removed + trimmed), at most the batch each, and the remembered intervals
local state_key, gone_key, agenda_key, due_key, external_key, intervals_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5],
  KEYS[6]
local now_text, uid = ARGV[1], ARGV[8]
-- Redis stores a hash within these bounds in one piece (defaults of hash-max-listpack-entries and -value)
local SMALL_HASH_FIELDS, SMALL_HASH_BYTES = 128, 64
local now, retention, most_gone, most_bodies = tonumber(now_text), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local body_age, external_age, batch, grace = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
local raw_head = call('HGET', state_key, '.h')
if not raw_head then return {0, ''} end
if sub(raw_head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(raw_head)} end
local epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags, generation, A, B, C, D, E, F, G, H =
  unpack_struct(HEAD_FIELDS, raw_head, 2)
local raw_counts = call('HGET', state_key, '.c') or NO_COUNTS
local horizon, floor, trimmed_to, external_floor, external_bytes, tombs, interval_total, skip_total, message_id_total,
  device_dismissal_total = unpack_struct(COUNTS_FORMAT, raw_counts .. ZEROS)
local forgotten, has_more, next_collect = 0, '', nil
local function collect_at(at) if not next_collect or at < next_collect then next_collect = at end end
-- Returns the time of the latest dismissal of an unknown id, and as how many dismissals by single devices they count: all
-- but the first, and one more for each 512 bytes of a filter.
local function latest_dismissal(raw)
  local top, units, o = 0, -1, 2
  while o <= #raw do
    local at, filter
    at, _, filter, o = unpack_struct('>I7Bc0I2c0', raw, o)
    units = units + 1 + math.floor(#filter / 512)
    if at > top then top = at end
  end
  return top, units
end

-- ---- gone items and tombstones, oldest first; a hiding is removed with the first gone item after it
local total = call('ZCARD', gone_key)
local page = call('ZRANGE', gone_key, 0, batch - 1, 'WITHSCORES')
local pending, dropped_members, dropped_ids = {}, {}, {}
for i = 1, #page, 2 do
  local member, score = page[i], tonumber(page[i+1])
  if string.find(member, '\0', 1, true) then pending[#pending+1] = member
  else
    local raw = call('HGET', state_key, member)
    local state = raw and sub(raw, 1, 1)
    -- nothing is written yet
    if raw and state ~= 'G' and state ~= 'T' and state ~= 'L' then
      return {err = 'UNKNOWNFORMAT record ' .. string.byte(raw)}
    end
    local at, units = now, 0
    if state == 'G' then at = (unpack_struct('>I7', raw, 12))
    elseif state == 'T' then at, units = latest_dismissal(raw) end
    local is_over = total - tombs > most_gone
    if at + retention > now and not (is_over and state == 'G') then
      collect_at(at + retention)
      -- a tombstone is never removed early; gone items beyond the bound may follow it
      if not is_over then break end
    else
      local moment = at + grace
      if state == 'G' then
        moment = (unpack_struct('>I7', raw, 22 + (unpack_struct('B', raw, 20))))
        if score > floor then floor = score end
      elseif state == 'T' then
        tombs = tombs - 1
        device_dismissal_total = math.max(0, device_dismissal_total - units)
      end
      if moment >= horizon then horizon = moment + 1 end
      for _, hiding in ipairs(pending) do dropped_members[#dropped_members+1] = hiding; total = total - 1 end
      pending = {}
      dropped_members[#dropped_members+1] = member; dropped_ids[#dropped_ids+1] = member
      total = total - 1
      forgotten = forgotten + 1
    end
  end
end
if #page == 2 * batch and forgotten > 0 then has_more = '1' end
for a = 1, #dropped_members, 2000 do call('ZREM', gone_key, unpack(dropped_members, a, math.min(a + 1999,
  #dropped_members))) end
for a = 1, #dropped_ids, 2000 do call('HDEL', state_key, unpack(dropped_ids, a, math.min(a + 1999, #dropped_ids))) end

-- ---- trim bodies: keep those of the newest gone items that are not too old; hidings and tombstones do not count
local first_kept, bodies_left = total, most_bodies
while bodies_left > 0 and first_kept > 0 do
  local low = first_kept > 256 and first_kept - 256 or 0
  local members = call('ZRANGE', gone_key, low, first_kept - 1)
  local raws = tombs > 0 and call('HMGET', state_key, unpack(members))
  for i = #members, 1, -1 do
    first_kept = low + i - 1
    if not string.find(members[i], '\0', 1, true) and (not raws or sub(raws[i] or '', 1, 1) == 'G') then bodies_left =
        bodies_left - 1 end
    if bodies_left == 0 then break end
  end
end
local from = call('ZCOUNT', gone_key, '-inf', string.format('%.0f', trimmed_to))
local bodies = call('ZRANGE', gone_key, from, from + batch - 1, 'WITHSCORES')
local rank, trimmed_before = from, trimmed_to
for i = 1, #bodies, 2 do
  local raw = call('HGET', state_key, bodies[i])
  if raw and sub(raw, 1, 1) == 'G' then
    local at, sender_length = (unpack_struct('>I7', raw, 12)), (unpack_struct('B', raw, 20))
    if rank >= first_kept and at + body_age > now then collect_at(at + body_age); break end
    local o = 20 + sender_length
    if sub(raw, o + 1, o + 1) == 'L' then
      local hidings_length, _, reminder_count, category_length, device_length = unpack_struct('>I2I2BBB', raw, o + 16)
      local body_at = o + 63 + category_length + device_length + 7 * (reminder_count % 32) + hidings_length
      -- the leaf goes with the body: a gone item is not part of any digest
      call('HSET', state_key, bodies[i], sub(raw, 1, o) .. 'l' .. sub(raw, o + 2, o + 30) .. sub(raw, o + 63, body_at - 1))
    end
  end
  trimmed_to = tonumber(bodies[i+1])
  rank = rank + 1
end
if rank < total and #bodies > 0 and trimmed_to > trimmed_before then
  -- the last seq may have more entries than this batch: read it again next time
  trimmed_to = trimmed_to - 1
  if #bodies == 2 * batch and trimmed_to > trimmed_before then has_more = '1' end
end

-- ---- remembered intervals whose retention is over
local intervals_dropped = 0
local all = flags % 2 == 1 and call('HGETALL', intervals_key) or {}
for i = 1, #all, 2 do
  local field, raw = all[i], all[i+1]
  local o, kept, count = 1, {}, 0
  while o <= #raw do
    local start = o
    count = count + 1
    local stop, at, skip_count
    _, _, _, stop, at, skip_count, o = unpack_struct('>BBc0I7I7I7I2', raw, o)
    for _ = 1, skip_count do o = o + 1 + string.byte(raw, o) end
    if at + retention < now then
      intervals_dropped = intervals_dropped + 1
      skip_total = skip_total > skip_count and skip_total - skip_count or 0
      if stop >= horizon then horizon = stop + 1 end
    else
      kept[#kept+1] = sub(raw, start, o - 1)
      collect_at(at + retention + 1)
    end
  end
  if #kept == 0 then call('HDEL', intervals_key, field)
  elseif #kept < count then call('HSET', intervals_key, field, table.concat(kept)) end
end
if intervals_dropped > 0 then
  forgotten, interval_total = forgotten + intervals_dropped, interval_total - intervals_dropped
  if interval_total == 0 then flags = flags - 1 end
end
if horizon > clear_from then clear_from = horizon end

-- ---- external messages and message ids
local oldest = call('ZRANGE', external_key, 0, 0)[1]
while oldest do
  local s, at = unpack_struct('>I5I7', oldest)
  if at + external_age > now then call('ZADD', agenda_key, at + external_age, 'e'); break end
  call('ZREM', external_key, oldest)
  external_bytes = external_bytes - (#oldest - 13)
  external_floor = s
  forgotten = forgotten + 1
  oldest = call('ZRANGE', external_key, 0, 0)[1]
end
if not oldest then call('ZREM', agenda_key, 'e') end
local due = call('ZRANGEBYSCORE', agenda_key, '-inf', now_text)
for i = 1, #due do
  if sub(due[i], 1, 1) == 'm' then
    call('HDEL', state_key, '\0' .. sub(due[i], 2))
    call('ZREM', agenda_key, due[i])
    message_id_total = message_id_total > 0 and message_id_total - 1 or 0
    forgotten = forgotten + 1
  end
end

-- ---- write the head, and schedule the next run
if has_more == '1' then next_collect = now end
if next_collect then
  call('ZADD', agenda_key, next_collect, 'g')
  if flags % 4 < 2 then flags = flags + 2 end
else
  call('ZREM', agenda_key, 'g')
  if flags % 4 >= 2 then flags = flags - 2 end
end
housekeeping_at = 0
local at = 0
while housekeeping_at == 0 do
  local entries = call('ZRANGE', agenda_key, at, at + 63, 'WITHSCORES')
  if #entries == 0 then break end
  for j = 1, #entries, 2 do
    if string.find(HOUSEKEEPING_KINDS, sub(entries[j], 1, 1), 1, true) then housekeeping_at =
        tonumber(entries[j+1]); break end
  end
  at = at + 64
end
local first = call('ZRANGE', agenda_key, 0, 0, 'WITHSCORES')
if first[2] then call('ZADD', due_key, first[2], uid) else call('ZREM', due_key, uid) end
call('HSET', state_key, '.h', pack(HEAD_FORMAT, 'H', epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags,
  generation, A, B, C, D, E, F, G, H))
local counts = pack(COUNTS_FORMAT, horizon, floor, trimmed_to, external_floor, external_bytes, tombs, interval_total,
  skip_total, message_id_total, device_dismissal_total)
if counts ~= raw_counts then call('HSET', state_key, '.c', counts) end

-- ---- rewrite a small state: a hash that was once large keeps the large encoding until it is deleted
if live_count == 0 and trimmed_to > trimmed_before and call('HLEN', state_key) <= SMALL_HASH_FIELDS then
  local fields, is_small = call('HGETALL', state_key), true
  for i = 1, #fields do is_small = is_small and #fields[i] <= SMALL_HASH_BYTES end
  if is_small then
    call('DEL', state_key)
    call('HSET', state_key, unpack(fields))
  end
end
return {forgotten, has_more}
