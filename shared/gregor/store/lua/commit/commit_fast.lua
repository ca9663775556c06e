-- commit_fast: The first part of the commit script; commit.lua has the general path, and explains keys, arguments and replies.
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- The fast path handles the commonest messages (one item created; one live item dismissed) without closures and almost
-- without tables. tests/bench/commit.py earns it. The general path must give the same results: tests/property/test_twins.py
-- compares both; tests/unit/store/test_commit_cost.py bounds the calls.
-- It can go when the general path costs less than 1.2 times as much.
-- Returns the reply of the fast path, or of a commit that cannot begin; otherwise, the general path follows.
local state_key, live_key, generation_key, agenda_key, due_key, gone_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5],
  KEYS[6]
local packed_args = ARGV[1]
local BOUNDS_FORMAT = '>I8I8I8I8I4I4I4I4I2I2I4I4I4I2'
local now, most_live, most_live_bytes, creation_count, id_count, interval_count, kind, reason, options, epoch_seed =
  unpack_struct('>I8I4I4I2I2I2c1c1I2c3', packed_args)
local sender = sub(packed_args, 104)
local is_for_known = options >= 512
if is_for_known then options = options - 512 end
local trace = ''
if options >= 256 then options, trace = options - 256, ARGV[#ARGV] end
local records_removals = options >= 128
if records_removals then options = options - 128 end
local is_drain = options % 4 >= 2
local is_plain = creation_count + id_count == 1 and interval_count == 0 and kind == 'u' and (options == 0 or options == 16)
-- The uid is `sub(state_key, #due_key)`: the keys are "<prefix>h:<uid>" and "<prefix>due".
local stored_head, stored
if is_plain then
  local fields = call('HMGET', state_key, '.h', ARGV[2])
  stored_head, stored = fields[1], fields[2]
else stored_head = call('HGET', state_key, '.h') end
local partition_generation = tonumber(call('GET', generation_key) or 0)
-- A … H are the 8 lanes of the user's digest, a … h those of one item (its leaf).
local epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags, user_generation, A, B, C, D, E, F, G, H
if stored_head then
  if sub(stored_head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(stored_head)} end
  epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags, user_generation, A, B, C, D, E, F, G, H =
    unpack_struct(HEAD_FIELDS, stored_head, 2)
  if user_generation ~= partition_generation and kind ~= 'f' and not is_drain then return {'generation'} end
  -- several commits may find an older generation: only the first one resets the user
  if user_generation == partition_generation and kind == 'f' and is_drain then return {'same', epoch, seq, {}, {}, {}, ''} end
  if housekeeping_at > 0 and housekeeping_at <= now and not is_drain then return {'due'} end
else
  -- due work and the reset of all users must not create a user who was deleted meanwhile
  if is_drain then return {'same', epoch_seed, 0, {}, {}, {}, ''} end
  -- a device whose token was revoked after its request was authorized must not create the user
  local issued = unpack_struct('>I8', packed_args, 30)
  if issued > 0 then
    if not KEYS[10] then return {'keys'} end
    local revoked_until = call('HMGET', KEYS[10], '', sender)
    if tonumber(revoked_until[1] or 0) >= issued or tonumber(revoked_until[2] or 0) >= issued then return {'revoked'} end
  end
  epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags, user_generation =
    epoch_seed, 0, 0, 0, 0, 0, 0, partition_generation
  A, B, C, D, E, F, G, H = 0, 0, 0, 0, 0, 0, 0, 0
end
-- the first announcement of a user carries the epoch: devices that connected earlier hold a cursor without one
local is_new = seq == 0 and 1 or 0

-- ==== fast path: one item created, or one live item dismissed; without a message id
if is_plain then
  local id, record, state = ARGV[2], creation_count == 1 and ARGV[3] or stored, stored and sub(stored, 1, 1)
  if creation_count == 0 and state == 'G' then return pack('>c3I5c1', epoch, seq, 's') end
  if creation_count == 1 or state == 'L' then
    local created, expires, hidings_length, json_overhead, reminder_count, category_length, device_length, fingerprint,
      a, b, c, d, e, f, g, h = unpack_struct(ITEM_FORMAT, record, 2)
    local is_stamped, has_timers = reminder_count > 127, reminder_count % 128 > 31
    reminder_count = reminder_count % 32
    local category, device = sub(record, 63, 62 + category_length), sub(record, 63 + category_length,
      62 + category_length + device_length)
    local is_shared = device_length == 0 or device == '*'
    local size = #record - 62 - category_length - device_length - 7 * reminder_count - hidings_length + json_overhead
    local member = id .. '\0' .. category
    -- sign: 1 the item is created, -1 it is dismissed, 0 nothing changes
    local new_record, sign = record, 0
    if creation_count == 0 then
      if device_length == 0 or (hidings_length == 0 and (sender == '' or sender == device)) then
        sign, seq = -1, seq + 1
        new_record = pack('>c1I5I5I7c1Bc0', 'G', seq, tonumber(call('ZSCORE', live_key, member)), now, reason, #sender,
          sender) .. stored
        call('ZREM', live_key, member)
        call('ZADD', gone_key, seq, id)
        if expires < NEVER then call('ZREM', agenda_key, 'x' .. id) end
        if reminder_count > 0 then call('ZREM', agenda_key, 'r' .. id) end
        if has_timers then call('ZREM', agenda_key, 'p' .. id, 'q' .. id) end
        if has_timers or records_removals then
          -- notifications of the item must be withdrawn
          call('ZADD', agenda_key, now, 'z' .. id)
          call('ZADD', due_key, 'LT', now, sub(state_key, #due_key))
        end
        if flags % 4 < 2 then
          flags = flags + 2
          local retention, body_age = unpack_struct(BOUNDS_FORMAT, packed_args, 38)
          local at = now + (body_age < retention and body_age or retention)
          -- LT: a collection may be scheduled for an entry that is due earlier
          call('ZADD', agenda_key, 'LT', at, 'g')
          call('ZADD', due_key, 'LT', at, sub(state_key, #due_key))
          if housekeeping_at == 0 or at < housekeeping_at then housekeeping_at = at end
        end
      end
    elseif state == 'L' and sub(stored, 16, 17) == '\0\0' then
      return pack('>c3I5c1', epoch, seq, sub(stored, 23, 30) == fingerprint and 'p' or 'f')
    elseif not stored and (created >= clear_from or (is_stamped and flags % 2 == 0)) and expires > now
      and live_count < most_live and live_bytes + size <= most_live_bytes then
      sign, seq = 1, seq + 1
      call('ZADD', live_key, seq, member)
      if expires < NEVER or reminder_count > 0 or options == 16 then
        local first = NEVER
        if expires < NEVER then
          first = expires
          call('ZADD', agenda_key, expires, 'x' .. id)
          if housekeeping_at == 0 or expires < housekeeping_at then housekeeping_at = expires end
        end
        local next_reminder
        for j = reminder_count, 1, -1 do
          local at = unpack_struct('>I7', record, 63 + category_length + device_length + 7 * (j - 1))
          -- of several reminders in the past only the latest fires; none fires after the item expires (L7)
          if at < expires then
            next_reminder = at
            if at <= now then break end
          end
        end
        if next_reminder then
          call('ZADD', agenda_key, next_reminder, 'r' .. id)
          if next_reminder < first then first = next_reminder end
        end
        if options == 16 then
          local timers_packed = ARGV[4]
          for o = 1, #timers_packed, 8 do
            local timer_kind, at = unpack_struct('>c1I7', timers_packed, o)
            if timer_kind ~= 'w' then call('ZADD', agenda_key, at, timer_kind .. id)
            elseif call('ZCARD', agenda_key) < ENTRIES_OF_AN_ITEM * most_live then
              call('ZADD', agenda_key, 'NX', at, 'w' .. category .. '\0' .. device)
            else at = NEVER end
            if at < first then first = at end
          end
        end
        if first < NEVER then call('ZADD', due_key, 'LT', math.max(first, now), sub(state_key, #due_key)) end
      end
    end
    if sign ~= 0 then
      local after_A, after_B, scope = A, B, '\0'
      live_count, live_bytes = live_count + sign, live_bytes + sign * size
      if is_shared then
        after_A, after_B = (A + sign * a) % LANE_MODULUS, (B + sign * b) % LANE_MODULUS
        call('HSET', state_key, id, new_record, '.h', pack(HEAD_FORMAT, 'H', epoch, seq, clear_from, housekeeping_at,
          live_count, live_bytes, flags, user_generation, after_A, after_B,
          (C + sign * c) % LANE_MODULUS, (D + sign * d) % LANE_MODULUS, (E + sign * e) % LANE_MODULUS,
            (F + sign * f) % LANE_MODULUS, (G + sign * g) % LANE_MODULUS, (H + sign * h) % LANE_MODULUS))
      else
        -- an item for one device counts in the view of that device and of the backend (device "")
        scope = pack('>BBBBc0', 1, 2, 0, device_length, device)
        local fields = {id, new_record, '.h', pack(HEAD_FORMAT, 'H', epoch, seq, clear_from, housekeeping_at, live_count,
          live_bytes, flags, user_generation, A, B, C, D, E, F, G, H)}
        local lane_fields = {'.d:', '.d:' .. device}
        local lanes = call('HMGET', state_key, lane_fields[1], lane_fields[2])
        for i = 1, 2 do
          local p, q, r, s, t, u, v, w = unpack_struct(LANES_FORMAT, lanes[i] or ZEROS)
          local sum = pack(LANES_FORMAT, (p + sign * a) % LANE_MODULUS, (q + sign * b) % LANE_MODULUS,
            (r + sign * c) % LANE_MODULUS, (s + sign * d) % LANE_MODULUS,
            (t + sign * e) % LANE_MODULUS, (u + sign * f) % LANE_MODULUS, (v + sign * g) % LANE_MODULUS,
              (w + sign * h) % LANE_MODULUS)
          if sum == ZEROS then call('HDEL', state_key, lane_fields[i])
          else fields[#fields+1] = lane_fields[i]; fields[#fields+1] = sum end
        end
        call('HSET', state_key, unpack(fields))
      end
      local announced, change_sign = record, '+'
      if sign < 0 then announced, change_sign = category, '-' end
      call('SPUBLISH', state_key, pack('>c1c3I5c1BI4I4I4I4c1Bc0I2c1c0Bc0I3', 'C', epoch, seq, 'u', is_new, A, B, after_A,
        after_B,
        reason, #sender, sender, 1, change_sign, scope, #id, id, #announced) .. announced)
      if sign > 0 then return pack('>c3I5c1', epoch, seq, 'c') end
      -- one dismissal in 64 checks the bound, chosen by the item's hash: choosing by seq could miss every turn of a
      -- user whose messages come in a regular pattern. A client can choose the hash, but not the time.
      if (a + now) % 64 > 0 then return pack('>c3I5c1', epoch, seq, 'd') end
      local _, _, _, _, _, most_bodies = unpack_struct(BOUNDS_FORMAT, packed_args, 38)
      local _, _, _, _, _, tombs, _, _, _, _, gone_hidings =
        unpack_struct(COUNTS_FORMAT, (call('HGET', state_key, '.c') or NO_COUNTS) .. ZEROS)
      local is_full = call('ZCARD', gone_key) + gone_hidings - tombs > most_bodies
      return pack('>c3I5c1', epoch, seq, 'd') .. (is_full and 'h' or '')
    end
  end
end
