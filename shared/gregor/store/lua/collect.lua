-- collect: forget what passed its retention, a bounded number at a time; a delta is never made wrong by it (L4, L9).
-- KEYS 1 state  2 gone by seq  3 agenda  4 due users of the partition  5 external messages  6 remembered intervals
-- ARGV 1 now µs  2 retention µs  3 history entries  4 bodies  5 body age µs  6 external age µs  7 at most so many  8 uid
--      9 grace µs of a dismissal of an id never seen (L4: acceptance + 1 h)
-- Returns {forgotten, more ("1": call again)}. Cost O(forgotten + trimmed) ≤ ARGV 7 each, and the remembered intervals.
-- a hash of so many fields, of so many bytes each, is kept in one piece (hash-max-listpack-entries and -value, as they come)
local FEW, SMALL = 128, 64
local now, retention, most_history, most_bodies = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local body_age, external_age, most, grace = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
local kh, ko, ka, kx, ks = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local raw_head = call('HGET', kh, '.h')
if not raw_head then return {0, ''} end
local epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H = upk(HEAD, raw_head)
local raw_counts = call('HGET', kh, '.c') or NO_COUNTS
local horizon, floor, trimmed_to, external_floor, external_bytes, tombs, span_count = upk(COUNTS, raw_counts)
local forgotten, more, next_g = 0, '', nil
local function later(at) if not next_g or at < next_g then next_g = at end end
local function latest(raw)
  local top, o = 0, 2
  while o <= #raw do
    local at
    at, _, _, o = upk('>I7Bc0I2c0', raw, o)
    if at > top then top = at end
  end
  return top
end

-- ---- history: oldest first. A hiding's entry goes with the first departure after it.
local total = call('ZCARD', ko)
local page = call('ZRANGE', ko, 0, most - 1, 'WITHSCORES')
local pending, drop_out, drop_ids = {}, {}, {}
for i = 1, #page, 2 do
  local member, score = page[i], tonumber(page[i+1])
  if string.find(member, '\0', 1, true) then pending[#pending+1] = member
  else
    local raw = call('HGET', kh, member)
    local state = raw and sub(raw, 1, 1)
    local at = now
    if state == 'G' then at = (upk('>I7', raw, 12)) elseif state == 'T' then at = latest(raw) end
    local is_over = total - tombs > most_history
    if at + retention > now and not (is_over and state == 'G') then
      later(at + retention)
      -- a dismissal of an unknown id is never forgotten early; what is over the bound may lie behind it
      if not is_over then break end
    else
      local moment = at + grace
      if state == 'G' then
        moment = (upk('>I7', raw, 22 + (upk('B', raw, 20))))
        if score > floor then floor = score end
      elseif state == 'T' then tombs = tombs - 1 end
      if moment >= horizon then horizon = moment + 1 end
      for _, hiding in ipairs(pending) do drop_out[#drop_out+1] = hiding; total = total - 1 end
      pending = {}
      drop_out[#drop_out+1] = member; drop_ids[#drop_ids+1] = member
      total = total - 1
      forgotten = forgotten + 1
    end
  end
end
if #page == 2 * most and forgotten > 0 then more = '1' end
for a = 1, #drop_out, 2000 do call('ZREM', ko, unpack(drop_out, a, math.min(a + 1999, #drop_out))) end
for a = 1, #drop_ids, 2000 do call('HDEL', kh, unpack(drop_ids, a, math.min(a + 1999, #drop_ids))) end

-- ---- bodies of what is gone: the newest so many, and not too old. Counted are items: no hidings, no remembered ids
local first_kept, unseen = total, most_bodies
while unseen > 0 and first_kept > 0 do
  local low = first_kept > 256 and first_kept - 256 or 0
  local members = call('ZRANGE', ko, low, first_kept - 1)
  local raws = tombs > 0 and call('HMGET', kh, unpack(members))
  for i = #members, 1, -1 do
    first_kept = low + i - 1
    if not string.find(members[i], '\0', 1, true) and (not raws or sub(raws[i] or '', 1, 1) == 'G') then unseen = unseen - 1 end
    if unseen == 0 then break end
  end
end
local from = call('ZCOUNT', ko, '-inf', string.format('%.0f', trimmed_to))
local bodies = call('ZRANGE', ko, from, from + most - 1, 'WITHSCORES')
local rank, trimmed_before = from, trimmed_to
for i = 1, #bodies, 2 do
  local raw = call('HGET', kh, bodies[i])
  if raw and sub(raw, 1, 1) == 'G' then
    local at, wlen = (upk('>I7', raw, 12)), (upk('B', raw, 20))
    if rank >= first_kept and at + body_age > now then later(at + body_age); break end
    local o = 20 + wlen
    if sub(raw, o + 1, o + 1) == 'L' then
      local hlen, _, nrem, clen, dlen = upk('>I2I2BBB', raw, o + 16)
      local body_at = o + 63 + clen + dlen + 7 * (nrem % 32) + hlen
      -- with its body goes the leaf: what is gone is in no digest any more
      call('HSET', kh, bodies[i], sub(raw, 1, o) .. 'l' .. sub(raw, o + 2, o + 30) .. sub(raw, o + 63, body_at - 1))
    end
  end
  trimmed_to = tonumber(bodies[i+1])
  rank = rank + 1
end
if rank < total and #bodies > 0 and trimmed_to > trimmed_before then
  -- the last seq looked at may have more entries: it is looked at again
  trimmed_to = trimmed_to - 1
  if #bodies == 2 * most and trimmed_to > trimmed_before then more = '1' end
end

-- ---- remembered intervals
local spans_dropped = 0
local all = flags % 2 == 1 and call('HGETALL', ks) or {}
for i = 1, #all, 2 do
  local field, raw = all[i], all[i+1]
  local o, kept = 1, {}
  while o <= #raw do
    local start = o
    local stop, at, nskip
    _, _, _, stop, at, nskip, o = upk('>BBc0I7I7I7I2', raw, o)
    for _ = 1, nskip do _, o = upk('>Bc0', raw, o) end
    if at + retention < now then
      spans_dropped = spans_dropped + 1
      if stop >= horizon then horizon = stop + 1 end
    else
      kept[#kept+1] = sub(raw, start, o - 1)
      later(at + retention + 1)
    end
  end
  if #kept == 0 then call('HDEL', ks, field) else call('HSET', ks, field, table.concat(kept)) end
end
if spans_dropped > 0 then
  forgotten, span_count = forgotten + spans_dropped, span_count - spans_dropped
  if span_count == 0 then flags = flags - 1 end
end
if horizon > clear then clear = horizon end

-- ---- external messages and message ids
local oldest = call('ZRANGE', kx, 0, 0)[1]
while oldest do
  local s, at = upk('>I5I7', oldest)
  if at + external_age > now then call('ZADD', ka, at + external_age, 'e'); break end
  call('ZREM', kx, oldest)
  external_bytes = external_bytes - (#oldest - 13)
  external_floor = s
  forgotten = forgotten + 1
  oldest = call('ZRANGE', kx, 0, 0)[1]
end
if not oldest then call('ZREM', ka, 'e') end
local due = call('ZRANGEBYSCORE', ka, '-inf', ARGV[1])
for i = 1, #due do
  if sub(due[i], 1, 1) == 'm' then
    call('HDEL', kh, '\0' .. sub(due[i], 2))
    call('ZREM', ka, due[i])
    forgotten = forgotten + 1
  end
end

-- ---- head, and when to come again
if more == '1' then next_g = now end
if next_g then
  call('ZADD', ka, next_g, 'g')
  if flags % 4 < 2 then flags = flags + 2 end
else
  call('ZREM', ka, 'g')
  if flags % 4 >= 2 then flags = flags - 2 end
end
wake = 0
local at = 0
while wake == 0 do
  local entries = call('ZRANGE', ka, at, at + 63, 'WITHSCORES')
  if #entries == 0 then break end
  for j = 1, #entries, 2 do
    if string.find('xmeg', sub(entries[j], 1, 1), 1, true) then wake = tonumber(entries[j+1]); break end
  end
  at = at + 64
end
local first = call('ZRANGE', ka, 0, 0, 'WITHSCORES')
if first[2] then call('ZADD', KEYS[4], first[2], ARGV[8]) else call('ZREM', KEYS[4], ARGV[8]) end
call('HSET', kh, '.h', pack(HEAD, epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H))
local counts = pack(COUNTS, horizon, floor, trimmed_to, external_floor, external_bytes, tombs, span_count)
if counts ~= raw_counts then call('HSET', kh, '.c', counts) end

-- ---- where nothing lives and no body is left, write the state anew: once large, a hash stays large, whatever is in it
if n == 0 and trimmed_to > trimmed_before and call('HLEN', kh) <= FEW then
  local fields, is_small = call('HGETALL', kh), true
  for i = 1, #fields do is_small = is_small and #fields[i] <= SMALL end
  if is_small then
    call('DEL', kh)
    call('HSET', kh, unpack(fields))
  end
end
return {forgotten, more}
