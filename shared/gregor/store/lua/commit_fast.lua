-- commit: one message of one user, whole or not at all; announced in the same step (semantics.md L1-L5).
-- A straight-line path for what is common (one creation; one live id dismissed) makes no closure and hardly a table: the
-- same meaning by the general path costs two to three times as much. `commit_general.lua` follows for all else.
-- KEYS 1 state, whose name is also the channel  2 live by seq  3 flush generation of the partition  4 agenda  5 due users
--      of the partition  6 gone by seq  7 remembered intervals; kinds e and d: 8 external messages  9 registrations.
--      A key costs 0.2 µs: one creation comes with the first 3, or with timers 5; one dismissal with 6
-- ARGV 1 packed, first what the fast path needs: now I8 µs, live I4, live bytes I4, creations I2, ids I2, spans here I2,
--        kind c1 (u e f d r k), reason c1, options B (1 remember the message id, 2 drain: what is due is being committed,
--        4 always the general path, 8 with limits or a message id,
--        16 with timers (kind r: what follows the reminder is to be done), 32 guarded: only if every id named is live and
--        hidden by none, and every creation made live, 64 rehearsal: nothing is written, 128 watched: an entry z for
--        whatever leaves, timed or not, and y for what a device hides), epoch seed c3; then, from byte 29 (BOUNDS): retention I8 µs, body age I8 µs,
--        external age I8 µs, message id kept until I8 µs, tombstones I4, bodies I4, external count I4,
--        external bytes I4, spans I2, spans a prefix I2, spread I2 s; then, to the end, the sender's device
--      with option 8 only: 2 sender's category limits  3 message id key ("" none)  4 its content hash
--      the rest: creations: id, record, with option 16 timers (kind c1 p q w, at I7 µs each) · ids · spans: packed (begin I8, end I8, flags B (1 open, 2 prefix), skips I2,
--        own I2), category, skips…, own… ; kind e: system, body; kind d: device;
--        kind r: id, index of the reminder; kind k: category, how many of it may live
-- An argument costs 0.15 µs, so the plain shapes have few.
-- Returns a string: epoch c3, seq I5, what c1 (c created, d dismissed, p duplicate, f conflict, s nothing to dismiss),
--        hint ("h": collect)
--      or {"ok"|"same", epoch, seq, created, dismissed, ignored, hint}
--      or {"keys"}: send it again with all keys | {"due"} | {"generation"} | {"reused"} | {"full", count, bytes}
--      | {"tombs", what, count}: nothing was changed
-- Cost O(1) for the fast path; general: O(ids + creations + live items where an interval is given)
local BOUNDS = '>I8I8I8I8I4I4I4I4I2I2I2'
local now, max_live, max_bytes, nc, ni, nv, kind, reason, options, seed = upk('>I8I4I4I2I2I2c1c1Bc3', ARGV[1])
local kh, kn, ka, kd, ko = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6]
local by = sub(ARGV[1], 83)
local watched = options >= 128
if watched then options = options - 128 end
local is_plain = nc + ni == 1 and nv == 0 and kind == 'u' and (options == 0 or options == 16)
-- (the uid is `sub(kh, #kd)`: the state is "<prefix>h:<uid>" and the due set "<prefix>due")
local raw_head, raw
if is_plain then
  local got = call('HMGET', kh, '.h', ARGV[2])
  raw_head, raw = got[1], got[2]
else raw_head = call('HGET', kh, '.h') end
local generation = tonumber(call('GET', KEYS[3]) or 0)
local epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H
if raw_head then
  epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H = upk(HEAD, raw_head)
  if gen ~= generation and kind ~= 'f' and options % 4 < 2 then return {'generation'} end
  -- of several that met an older generation, one flushes
  if gen == generation and kind == 'f' and options % 4 >= 2 then return {'same', epoch, seq, {}, {}, {}, ''} end
  if wake > 0 and wake <= now and options % 4 < 2 then return {'due'} end
else
  epoch, seq, clear, wake, n, bytes, flags, gen = seed, 0, 0, 0, 0, 0, 0, generation
  A, B, C, D, E, F, G, H = 0, 0, 0, 0, 0, 0, 0, 0
end
-- the first announcement of a user tells the epoch: devices that came before may hold a cursor of none
local is_new = seq == 0 and 1 or 0

if is_plain then
  local id, record, state = ARGV[2], nc == 1 and ARGV[3] or raw, raw and sub(raw, 1, 1)
  if nc == 0 and state == 'G' then return pack('>c3I5c1', epoch, seq, 's') end
  if nc == 1 or state == 'L' then
    local created, expires, hlen, rest, nrem, clen, dlen, fp, a, b, c, d, e, f, g, h = upk(ITEM, record, 2)
    local stamped, timers = nrem > 127, nrem % 128 > 31
    nrem = nrem % 32
    local category, device = sub(record, 63, 62 + clen), sub(record, 63 + clen, 62 + clen + dlen)
    local is_shared = dlen == 0 or device == '*'
    local size = #record - 62 - clen - dlen - 7 * nrem - hlen + rest
    local member = id .. '\0' .. category
    -- what is kept of it, and how it counts: 1 it comes, -1 it goes, 0 neither
    local kept, sign = record, 0
    if nc == 0 then
      if dlen == 0 or (hlen == 0 and (by == '' or by == device)) then
        sign, seq = -1, seq + 1
        kept = pack('>c1I5I5I7c1Bc0', 'G', seq, tonumber(call('ZSCORE', kn, member)), now, reason, #by, by) .. raw
        call('ZREM', kn, member)
        call('ZADD', ko, seq, id)
        if expires < NEVER then call('ZREM', ka, 'x' .. id) end
        if nrem > 0 then call('ZREM', ka, 'r' .. id) end
        if timers then call('ZREM', ka, 'p' .. id, 'q' .. id) end
        if timers or watched then
          -- what was told of it is to be taken back
          call('ZADD', ka, now, 'z' .. id)
          call('ZADD', kd, 'LT', now, sub(kh, #kd))
        end
        if flags % 4 < 2 then
          flags = flags + 2
          local retention, body_age = upk(BOUNDS, ARGV[1], 29)
          local at = now + (body_age < retention and body_age or retention)
          call('ZADD', ka, at, 'g')
          call('ZADD', kd, 'LT', at, sub(kh, #kd))
          if wake == 0 or at < wake then wake = at end
        end
      end
    elseif state == 'L' and sub(raw, 16, 17) == '\0\0' then
      return pack('>c3I5c1', epoch, seq, sub(raw, 23, 30) == fp and 'p' or 'f')
    elseif not raw and (created >= clear or (stamped and flags % 2 == 0)) and expires > now
      and n < max_live and bytes + size <= max_bytes then
      sign, seq = 1, seq + 1
      call('ZADD', kn, seq, member)
      if expires < NEVER or nrem > 0 or options == 16 then
        local first = NEVER
        if expires < NEVER then
          first = expires
          call('ZADD', ka, expires, 'x' .. id)
          if wake == 0 or expires < wake then wake = expires end
        end
        local next_reminder
        for j = nrem, 1, -1 do
          local at = upk('>I7', record, 63 + clen + dlen + 7 * (j - 1))
          -- of several already past only the latest fires; none fires once the item has expired (L7)
          if at < expires then
            next_reminder = at
            if at <= now then break end
          end
        end
        if next_reminder then
          call('ZADD', ka, next_reminder, 'r' .. id)
          if next_reminder < first then first = next_reminder end
        end
        if options == 16 then
          local asked = ARGV[4]
          for o = 1, #asked, 8 do
            local what, at = upk('>c1I7', asked, o)
            if what == 'w' then call('ZADD', ka, 'NX', at, 'w' .. category .. '\0' .. device)
            else call('ZADD', ka, at, what .. id) end
            if at < first then first = at end
          end
        end
        if first < NEVER then call('ZADD', kd, 'LT', first, sub(kh, #kd)) end
      end
    end
    if sign ~= 0 then
      local A2, B2, scope = A, B, '\0'
      n, bytes = n + sign, bytes + sign * size
      if is_shared then
        A2, B2 = (A + sign * a) % M, (B + sign * b) % M
        call('HSET', kh, id, kept, '.h', pack(HEAD, epoch, seq, clear, wake, n, bytes, flags, gen, A2, B2,
          (C + sign * c) % M, (D + sign * d) % M, (E + sign * e) % M, (F + sign * f) % M, (G + sign * g) % M, (H + sign * h) % M))
      else
        -- what one device sees is added for it, and for the backend, to what every device sees
        scope = pack('>BBBBc0', 1, 2, 0, dlen, device)
        local fields = {id, kept, '.h', pack(HEAD, epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H)}
        local names = {'.d:', '.d:' .. device}
        local lanes = call('HMGET', kh, names[1], names[2])
        for i = 1, 2 do
          local p, q, r, s, t, u, v, w = upk(LANES, lanes[i] or NO_COUNTS)
          local sum = pack(LANES, (p + sign * a) % M, (q + sign * b) % M, (r + sign * c) % M, (s + sign * d) % M,
            (t + sign * e) % M, (u + sign * f) % M, (v + sign * g) % M, (w + sign * h) % M)
          if sum == NO_COUNTS then call('HDEL', kh, names[i])
          else fields[#fields+1] = names[i]; fields[#fields+1] = sum end
        end
        call('HSET', kh, unpack(fields))
      end
      local told, op = record, '+'
      if sign < 0 then told, op = category, '-' end
      call('SPUBLISH', kh, pack('>c1c3I5c1BI4I4I4I4c1Bc0I2c1c0Bc0I3', 'C', epoch, seq, 'u', is_new, A, B, A2, B2,
        reason, #by, by, 1, op, scope, #id, id, #told) .. told)
      if sign > 0 then return pack('>c3I5c1', epoch, seq, 'c') end
      -- one departure in 64 looks at the bound, by the item's own hash: a seq would let a steady rhythm miss each turn
      if a % 64 > 0 then return pack('>c3I5c1', epoch, seq, 'd') end
      local _, _, _, _, _, max_bodies = upk(BOUNDS, ARGV[1], 29)
      return pack('>c3I5c1', epoch, seq, 'd') .. (call('ZCARD', ko) > max_bodies and 'h' or '')
    end
  end
end
if not KEYS[7] then return {'keys'} end
