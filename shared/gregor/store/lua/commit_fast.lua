-- commit: one message of one user, whole or not at all; announced in the same step (semantics.md L1-L5).
-- Two straight-line paths (one creation for all devices; one live id of an all-device item) make no table and no closure:
-- the same meaning by the general path costs two to three times as much. `commit_general.lua` follows for all else.
-- KEYS 1 head, whose name is also the channel  2 records  3 live by seq  4 gone by seq  5 agenda  6 due users of the
--      partition  7 flush generation of the partition; kinds e and d: 8 external messages  9 registrations
-- ARGV 1 packed, first what the fast paths need: now I8 µs, live I4, live bytes I4, creations I2, ids I2, spans here I2,
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
-- An argument costs 0.15 µs, so the plain shapes have few: 10 where naming each thing apart took 19 and 1.5 µs more.
-- Returns a string: epoch c3, seq I5, what c1 (c created, d dismissed, p duplicate, f conflict), hint ("h": collect)
--      or {"ok"|"same", epoch, seq, created, dismissed, ignored, hint}
--      or {"due"} | {"generation"} | {"reused"} | {"full", count, bytes} | {"tombs", what, count}: nothing was changed
-- Cost O(1) for the fast paths; general: O(ids + creations + live items where an interval is given)
local BOUNDS = '>I8I8I8I8I4I4I4I4I2I2I2'
local now, max_live, max_bytes, nc, ni, nv, kind, reason, options, seed = upk('>I8I4I4I2I2I2c1c1Bc3', ARGV[1])
local kh, kr, kn, ko, ka, kd = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local by = sub(ARGV[1], 83)
local watched = options >= 128
if watched then options = options - 128 end
-- (the uid is `sub(kh, #kd)`: the head is "<prefix>h:<uid>" and the due set "<prefix>due")
local raw_head = call('HGET', kh, 'h')
local generation = tonumber(call('GET', KEYS[7]) or 0)
local epoch, seq, horizon, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H
if raw_head then
  epoch, seq, horizon, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H = upk(HEAD, raw_head)
  if gen ~= generation and kind ~= 'f' and options % 4 < 2 then return {'generation'} end
  if wake > 0 and wake <= now and options % 4 < 2 then return {'due'} end
else
  epoch, seq, horizon, wake, n, bytes, flags, gen = seed, 0, 0, 0, 0, 0, 0, generation
  A, B, C, D, E, F, G, H = 0, 0, 0, 0, 0, 0, 0, 0
end
-- the first announcement of a user tells the epoch: devices that came before may hold a cursor of none
local is_new = seq == 0 and 1 or 0

if (options == 0 or options == 16) and kind == 'u' and nv == 0 and nc + ni == 1 then
  local id = ARGV[2]
  local raw = call('HGET', kr, id)
  if nc == 1 then
    -- fast path 1: one creation for every device, where no interval is remembered
    local record = ARGV[3]
    local created, expires, _, nrem, clen, dlen, fp, a, b, c, d, e, f, g, h = upk('>I7I7I2BBBc8I4I4I4I4I4I4I4I4', record, 2)
    local stamped = nrem > 127
    nrem = nrem % 32
    local json_at = 61 + clen + dlen + 7 * nrem
    local size = #record - json_at + 1
    local category = sub(record, 61, 60 + clen)
    if not raw and flags % 2 == 0 and (dlen == 0 or sub(record, 61 + clen, json_at - 1 - 7 * nrem) == '*')
      and (stamped or created >= horizon) and (expires == 0 or expires > now)
      and n < max_live and bytes + size <= max_bytes then
      seq = seq + 1
      call('HSET', kr, id, record)
      call('ZADD', kn, seq, id .. '\0' .. category)
      if expires > 0 or nrem > 0 or options == 16 then
        local first = expires
        if expires > 0 then
          call('ZADD', ka, expires, 'x' .. id)
          if wake == 0 or expires < wake then wake = expires end
        end
        local next_reminder
        for j = nrem, 1, -1 do
          local at = upk('>I7', record, 61 + clen + dlen + 7 * (j - 1))
          -- of several already past only the latest fires; none fires once the item has expired (L7)
          if expires == 0 or at < expires then
            next_reminder = at
            if at <= now then break end
          end
        end
        if next_reminder then
          call('ZADD', ka, next_reminder, 'r' .. id)
          if first == 0 or next_reminder < first then first = next_reminder end
        end
        if options == 16 then
          local timers = ARGV[4]
          for o = 1, #timers, 8 do
            local what, at = upk('>c1I7', timers, o)
            if what == 'w' then call('ZADD', ka, 'NX', at, 'w' .. category .. '\0' .. sub(record, 61 + clen, 60 + clen + dlen))
            else call('ZADD', ka, at, what .. id) end
            if first == 0 or at < first then first = at end
          end
        end
        if first > 0 then call('ZADD', kd, 'LT', first, sub(kh, #kd)) end
      end
      local A2, B2 = (A + a) % M, (B + b) % M
      call('HSET', kh, 'h', pack(HEAD, epoch, seq, horizon, wake, n + 1, bytes + size, flags, gen,
        A2, B2, (C + c) % M, (D + d) % M, (E + e) % M, (F + f) % M, (G + g) % M, (H + h) % M))
      call('SPUBLISH', kh, pack('>c1c3I5c1BI4I4I4I4c1Bc0I2c1BBc0Bc0I3', 'C', epoch, seq, 'u', is_new, A, B, A2, B2,
        reason, #by, by, 1, '+', 0, #id, id, #category, category, size) .. sub(record, json_at))
      return pack('>c3I5c1', epoch, seq, 'c')
    elseif raw and sub(raw, 1, 1) == 'L' and upk('>I2', raw, 16) == 0 then
      return pack('>c3I5c1', epoch, seq, sub(raw, 21, 28) == fp and 'p' or 'f')
    end
  elseif raw and sub(raw, 1, 1) == 'L' then
    -- fast path 2: one live item of every device is dismissed
    local _, expires, hlen, nrem, clen, dlen, _, a, b, c, d, e, f, g, h = upk('>I7I7I2BBBc8I4I4I4I4I4I4I4I4', raw, 2)
    local timers = nrem % 128 - nrem % 32
    nrem = nrem % 32
    if dlen == 0 or (by == '' and hlen == 0 and dlen == 1 and sub(raw, 61 + clen, 61 + clen) == '*') then
      local category = sub(raw, 61, 60 + clen)
      local member = id .. '\0' .. category
      local size = #raw - (60 + clen + dlen + 7 * nrem)
      seq = seq + 1
      call('HSET', kr, id, pack('>c1I5I5I7c1Bc0', 'G', seq, tonumber(call('ZSCORE', kn, member)), now, reason, #by, by) .. raw)
      call('ZREM', kn, member)
      call('ZADD', ko, seq, id)
      if expires > 0 then call('ZREM', ka, 'x' .. id) end
      if nrem > 0 then call('ZREM', ka, 'r' .. id) end
      if timers > 0 then call('ZREM', ka, 'p' .. id, 'q' .. id) end
      if timers > 0 or watched then
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
      local A2, B2 = (A - a) % M, (B - b) % M
      call('HSET', kh, 'h', pack(HEAD, epoch, seq, horizon, wake, n - 1, bytes - size, flags, gen,
        A2, B2, (C - c) % M, (D - d) % M, (E - e) % M, (F - f) % M, (G - g) % M, (H - h) % M))
      call('SPUBLISH', kh, pack('>c1c3I5c1BI4I4I4I4c1Bc0I2c1BBc0Bc0', 'C', epoch, seq, 'u', is_new, A, B, A2, B2,
        reason, #by, by, 1, '-', 0, #id, id, #category, category))
      local hint = ''
      -- one departure in 64, by the item's own hash: a seq would let a steady rhythm miss each turn
      if a % 64 == 0 then
        local _, _, _, _, _, max_bodies = upk(BOUNDS, ARGV[1], 29)
        if call('ZCARD', ko) > max_bodies then hint = 'h' end
      end
      return pack('>c3I5c1', epoch, seq, 'd') .. hint
    end
  end
end
