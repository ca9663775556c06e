-- collect: Remove what passed its retention, a bounded number at a time. A delta never becomes wrong by it (L4, L9).
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- KEYS    1 state  2 gone items by seq  3 agenda  4 due users of the partition  5 external messages  6 remembered intervals
-- ARGV    1 now µs  2 retention µs  3 most gone items  4 most bodies  5 body age µs  6 external age µs  7 batch: the most
--         entries to look at  8 uid  9 how far `created` may be ahead µs (L4)  10 "1" if only external messages and
--         message ids are due  11 the place that the last call returned, "" for the first
-- Returns {number removed, "1" if it must be called again, the place from which it continues, CPU time of the server µs}.
--         The place: part that continues (d delete, k count the bodies, t trim); number of oldest entries that stay; earliest
--         time µs at which one of them passes its retention, or 0; number of gone items that the part has passed; seq and
--         name of the last examined entry; state of the counts (`base`). Part d has in their places the seq from which hidings
--         wait, and 1 if it returns to them.
-- Cost    O(removed + trimmed + examined), at most the batch each, and the remembered intervals
local state_key, gone_key, agenda_key, due_key, external_key, intervals_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5],
  KEYS[6]
local now_text, uid, began = ARGV[1], ARGV[8], os.clock()
-- Redis stores a hash within these bounds in one piece (defaults of hash-max-listpack-entries and -value)
local SMALL_HASH_FIELDS, SMALL_HASH_BYTES = 128, 64
local now, retention, most_gone, most_bodies = tonumber(now_text), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local body_age, external_age, batch, grace = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
local raw_head = call('HGET', state_key, '.h')
if not raw_head then return {0, '', '', 0} end
if sub(raw_head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(raw_head)} end
local epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags, generation, A, B, C, D, E, F, G, H =
  unpack_struct(HEAD_FIELDS, raw_head, 2)
local raw_counts = call('HGET', state_key, '.c') or NO_COUNTS
local horizon, floor, trimmed_to, external_floor, external_bytes, tombs, interval_total, skip_total, message_id_total,
  device_dismissal_total, gone_hidings = unpack_struct(COUNTS_FORMAT, raw_counts .. ZEROS)
-- Nothing moves a gone item, so each is counted once: `bodies` is the number of gone items up to counted_to that have a body.
-- No body becomes too old before body_due (s), and no interval passes its retention before interval_due (s); 0 if that is
-- unknown. If an older version writes the counts, it drops all four numbers.
local SECOND = 1000000
local function in_seconds(at) return math.min(math.floor(at / SECOND), 4294967295) end
local counted_to, bodies, body_due, interval_due = unpack_struct(COLLECTED_FORMAT, raw_counts .. ZEROS, 49)
if counted_to < trimmed_to then counted_to, bodies = trimmed_to, 0 end
local forgotten, has_more, place, step = 0, '', '', math.min(batch, 256)
-- If a device sends at its full rate, a message id is due every 0.1 s. To examine the history each time would take up to 20 ms.
local skips_history = ARGV[10] == '1'
-- the state of the counts: if it is the same, no other call has removed, trimmed or counted gone items
local function base() return string.format('%.0f %.0f %.0f %.0f', floor, trimmed_to, counted_to, bodies) end
local part, kept_before, next_collect, passed, last_seq, last_member, last_base =
  string.match(ARGV[11], '^(%a) (%d+) (%d+) (%d+) (%d+)\n(.*)\n(.*)$')
part, kept_before, next_collect = part or 'd', tonumber(kept_before or 0), tonumber(next_collect or 0)
passed, last_seq = tonumber(passed), tonumber(last_seq)
if next_collect == 0 then next_collect = nil end
local function continue_at(next_part, kept, count, score, member)
  has_more = '1'
  place = string.format('%s %.0f %.0f %.0f %.0f\n', next_part, kept, next_collect or 0, count, score) .. member .. '\n'
    .. base()
end
-- Returns the rank after the last entry that was examined, and the number of items passed; nil if a part must begin again: a
-- repeated dismissal of an unknown id moves its entry.
local function continued(wanted)
  if part ~= wanted or last_base ~= base() or tonumber(call('ZSCORE', gone_key, last_member)) ~= last_seq then return nil end
  return call('ZRANK', gone_key, last_member) + 1, passed
end
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

-- Returns how many hidings of a gone record began with its item. Each other hiding has its own member.
local function count_first_hidings(raw)
  local created, o = sub(raw, 7, 11), 20 + string.byte(raw, 20)
  local hidings_length, _, reminder_count, category_length, device_length = unpack_struct('>I2I2BBB', raw, o + 16)
  -- a record whose body was trimmed has no leaf
  local header_length = sub(raw, o + 1, o + 1) == 'L' and 62 or 30
  local pos = o + header_length + 1 + category_length + device_length + 7 * (reminder_count % 32)
  local stop, count = pos + hidings_length, 0
  while pos < stop do
    local at = pos + string.byte(raw, pos) + 1
    if sub(raw, at, at + 4) == created then count = count + 1 end
    pos = at + 13
  end
  return count
end

local function has_body(raw)
  local at = 21 + string.byte(raw, 20)
  return sub(raw, at, at) == 'L'
end

-- ---- gone items and tombstones, oldest first; a hiding is removed with the first of them after it
local total = skips_history and 0 or call('ZCARD', gone_key)
if total > FEW_NAMES then collectgarbage() end
-- waits_from: seq of the first hiding in an earlier page that waits for the next gone item or tombstone, or 0. If one is
-- dropped after it, the collection goes back to it, once: `returns`.
local waits_from, returns = part == 'd' and passed or 0, part == 'd' and last_seq == 1
local page = part == 'd' and not skips_history and call('ZRANGE', gone_key, kept_before, kept_before + batch - 1, 'WITHSCORES') or {}
local is_cut = #page == 2 * batch
local pending_from = 0
local pending, dropped_members, dropped_ids, is_at_tombs = {}, {}, {}, false
for i = 1, #page, 2 do
  local member, score = page[i], tonumber(page[i+1])
  if string.find(member, '\0', 1, true) then
    pending[#pending+1] = member
    if #pending == 1 then pending_from = score end
    -- no delta begins before the floor
    if score <= floor then dropped_members[#dropped_members+1] = member; pending[#pending] = nil; total = total - 1 end
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
    local is_over = total + gone_hidings - tombs > most_gone
    if at + retention > now and not (is_over and state == 'G') then
      collect_at(at + retention)
      -- a tombstone is never removed early; gone items beyond the bound may follow it
      if not is_over then is_cut = false; break end
      -- all entries before the floor are tombstones, the oldest first: if this one stays, the later ones stay, too
      if score < floor and not returns then is_at_tombs = true; break end
    else
      local moment = at + grace
      if state == 'G' then
        moment = (unpack_struct('>I7', raw, 22 + (unpack_struct('B', raw, 20))))
        if score <= counted_to and has_body(raw) then bodies = math.max(0, bodies - 1) end
        -- versions before 1.1 did not count them: the difference may be below zero
        gone_hidings = math.max(0, gone_hidings - count_first_hidings(raw))
      elseif state == 'T' then
        tombs = tombs - 1
        device_dismissal_total = math.max(0, device_dismissal_total - units)
      end
      -- A record that ended before its own `created` may be forgotten soon after it, or even before it: it must not make
      -- the present creations of other callers stale.
      if moment > at and moment + grace > now then moment = at end
      if moment >= horizon then horizon = moment + 1 end
      -- also a tombstone: the hidings before it leave with it, and no delta may begin before them
      if score > floor then floor = score end
      for _, hiding in ipairs(pending) do dropped_members[#dropped_members+1] = hiding; total = total - 1 end
      pending = {}
      dropped_members[#dropped_members+1] = member; dropped_ids[#dropped_ids+1] = member
      total = total - 1
      forgotten = forgotten + 1
    end
  end
end
for a = 1, #dropped_members, 2000 do call('ZREM', gone_key, unpack(dropped_members, a, math.min(a + 1999,
  #dropped_members))) end
for a = 1, #dropped_ids, 2000 do call('HDEL', state_key, unpack(dropped_ids, a, math.min(a + 1999, #dropped_ids))) end
if waits_from == 0 and #pending > 0 then waits_from = pending_from end
local function rank_at(seq) return call('ZCOUNT', gone_key, '-inf', string.format('(%.0f', seq)) end
if waits_from > 0 and waits_from <= floor then
  is_cut = true
  continue_at('d', rank_at(waits_from), 0, 1, '')
elseif is_at_tombs then
  is_cut = true
  continue_at('d', rank_at(floor), 0, 0, '')
elseif is_cut then
  continue_at('d', kept_before + #page / 2 - #dropped_members, waits_from, returns and 1 or 0, '')
end

-- ---- count the bodies of the gone items after trimmed_to; hidings and tombstones do not count
local from = skips_history and 0 or call('ZCOUNT', gone_key, '-inf', string.format('%.0f', trimmed_to))
if part ~= 't' and not is_cut and most_bodies > 0 and total - from > most_bodies then
  local rank, counted = continued('k')
  if not rank then rank, counted = call('ZCOUNT', gone_key, '-inf', string.format('%.0f', counted_to)), bodies end
  -- some bodies of the first seq after trimmed_to may be trimmed
  local needs_records, examined = tombs > 0 or counted_to == trimmed_to, 0
  while rank < total and has_more == '' do
    local members = call('ZRANGE', gone_key, rank, rank + step - 1)
    local raws = needs_records and call('HMGET', state_key, unpack(members))
    for i = 1, #members do
      if not string.find(members[i], '\0', 1, true)
        and (not raws or raws[i] and sub(raws[i], 1, 1) == 'G' and has_body(raws[i])) then
        counted = counted + 1
      end
    end
    rank, examined = rank + #members, examined + #members
    if examined >= batch and rank < total then
      continue_at('k', kept_before, counted, tonumber(call('ZSCORE', gone_key, members[#members])), members[#members])
    end
  end
  if has_more == '' then
    counted_to, bodies = tonumber(call('ZRANGE', gone_key, -1, -1, 'WITHSCORES')[2]), counted
  end
end

-- ---- trim bodies: keep those of the newest gone items that are not too old
local trimmed_before, last_score, examined = trimmed_to, trimmed_to, 0
local rank = continued('t')
-- without a body to trim, no entry is read: many dismissals of unknown ids may precede the first body
local can_trim = rank ~= nil or most_bodies == 0 or bodies > most_bodies or body_due * SECOND <= now
if rank then last_score = last_seq else rank = from end
if not can_trim then collect_at(body_due * SECOND) end
while can_trim and has_more == '' and rank < total do
  local entries = call('ZRANGE', gone_key, rank, rank + step - 1, 'WITHSCORES')
  local is_done = false
  for i = 1, #entries, 2 do
    local score = tonumber(entries[i+1])
    local raw = call('HGET', state_key, entries[i])
    -- all entries of one commit have the same score: trimmed_to advances only after the last of them
    if score ~= last_score then trimmed_to, last_score = last_score, score end
    if raw and sub(raw, 1, 1) == 'G' and has_body(raw) then
      local at, o = (unpack_struct('>I7', raw, 12)), 20 + string.byte(raw, 20)
      if most_bodies > 0 and bodies <= most_bodies and at + body_age > now then
        body_due, is_done = in_seconds(at + body_age), true
        collect_at(at + body_age)
        break
      end
      local hidings_length, _, reminder_count, category_length, device_length = unpack_struct('>I2I2BBB', raw, o + 16)
      local body_at = o + 63 + category_length + device_length + 7 * (reminder_count % 32) + hidings_length
      -- the leaf goes with the body: a gone item is not part of any digest
      call('HSET', state_key, entries[i], sub(raw, 1, o) .. 'l' .. sub(raw, o + 2, o + 30) .. sub(raw, o + 63, body_at - 1))
      if score <= counted_to then bodies = math.max(0, bodies - 1) end
    end
    rank, examined = rank + 1, examined + 1
  end
  if is_done then break end
  if examined >= batch and rank < total then continue_at('t', kept_before, 0, last_score, entries[#entries-1]) end
end
if rank == total and not skips_history then trimmed_to, body_due = last_score, 0 end

-- ---- remembered intervals whose retention is over
local intervals_dropped, first_due = 0, NEVER
local is_interval_due = flags % 2 == 1 and interval_due * SECOND <= now and not skips_history
local all = is_interval_due and call('HGETALL', intervals_key) or {}
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
      first_due = math.min(first_due, at + retention + 1)
    end
  end
  if #kept == 0 then call('HDEL', intervals_key, field)
  elseif #kept < count then call('HSET', intervals_key, field, table.concat(kept)) end
end
if first_due < NEVER then
  interval_due = in_seconds(first_due)
  collect_at(first_due)
elseif flags % 2 == 1 and not is_interval_due then collect_at(interval_due * SECOND)
else interval_due = 0 end
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
if not skips_history then
  if has_more == '1' then next_collect = now end
  if next_collect then call('ZADD', agenda_key, next_collect, 'g') else call('ZREM', agenda_key, 'g') end
  -- If no body waits for its age, the run may be scheduled for a later time than the next body needs. The flag is then 0, and
  -- the next commit schedules an earlier run.
  local is_scheduled = has_more == '1' or (next_collect and body_due > 0)
  if is_scheduled and flags % 4 < 2 then flags = flags + 2
  elseif not is_scheduled and flags % 4 >= 2 then flags = flags - 2 end
end
housekeeping_at = next_housekeeping(agenda_key, now)
local first = call('ZRANGE', agenda_key, 0, 0, 'WITHSCORES')
if first[2] then call('ZADD', due_key, math.max(first[2], now), uid) else call('ZREM', due_key, uid) end
call('HSET', state_key, '.h', pack(HEAD_FORMAT, 'H', epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags,
  generation, A, B, C, D, E, F, G, H))
local counts = pack(COUNTS_FORMAT, horizon, floor, trimmed_to, external_floor, external_bytes, tombs, interval_total,
  skip_total, message_id_total, device_dismissal_total, gone_hidings)
  .. pack(COLLECTED_FORMAT, counted_to, bodies, body_due, interval_due)
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
return {forgotten, has_more, place, (os.clock() - began) * 1000000}
