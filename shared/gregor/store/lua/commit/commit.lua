-- commit: Apply one message of one user, whole or not at all, and publish it in the same step (semantics.md L1-L5).
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- The script begins with commit_fast.lua, which reads the head of the user and handles the commonest messages. This file is
-- the general path: it handles every message, at two to three times the cost.
--
-- KEYS    1 state; its name is also the channel  2 live items by seq  3 generation of the partition  4 agenda
--         5 due users of the partition  6 gone items by seq  7 remembered intervals  8 external messages  9 registrations
--         10 revocations
--         A key costs 0.2 µs, so the caller sends only the keys that its message needs: a creation the first 3, a creation
--         with timers 5, a dismissal 6. The script answers {"keys"} if it needs all of them.
-- ARGV    1 packed values: now I8 µs, most live items I4, most live bytes I4, number of creations I2, of ids I2, of
--           intervals I2, kind c1, reason c1, options I2, epoch seed c3, when the token of the sender was issued I8 µs
--           (0: no token); from byte 38 (BOUNDS_FORMAT): retention I8 µs, body age I8 µs, external age I8 µs, message id kept
--           until I8 µs, and the most tombstones I4, bodies I4, external messages I4, external bytes I4, intervals I2,
--           intervals of a prefix I2, skipped ids I4, message ids I4, dismissals by devices I4; reset spread I2 s; then the
--           sender's device to the end. An argument costs 0.15 µs, so these share one.
--         with option 8:  2 category filter of the sender  3 message id ("": none)  4 its content hash
--         then: creations (id, record, with option 16 its timers: kind c1, at I7 µs each) · ids · if there are intervals, how
--           to find their items (see "find the items of intervals") · intervals (packed: begin I8, end I8, flags B (1 open,
--           2 prefix), number of skipped ids I2, of own ids I2; category; if any, skipped ids str8 each in one, sorted; own
--           ids)
--         kind e: system, body · kind d: device · kind r: item id, index of the reminder · kind k: category, most live items…
-- Kinds   u items  e external message  f reset to a new epoch  d removed device  r reminder  k displacement
-- Options 1 REMEMBER keep the message id · 2 DRAIN this commit does the due work · 4 GENERAL always take the general path
--         8 EXTRAS a category filter or a message id follows · 16 TIMERS creations have timers, or work follows a reminder
--         32 GUARDED only if every id is live and not hidden, and every creation becomes live · 64 REHEARSAL write nothing
--         128 RECORD_REMOVALS an agenda entry z for each item that leaves, and y for each that a device hides
--         256 TRACED with 4: the last argument is a trace context, for the end of the announcement (never of kind e)
--         512 KNOWN with 4: change nothing unless the user is known (among the due users); a deleted user is not
-- Returns for the fast path a string: epoch c3, seq I5, result c1 (c created, d dismissed, p duplicate, f conflict,
--           s nothing to dismiss), then "h" if `collect` must run
--         for the general path {"ok"|"same", epoch, seq, created ids, dismissed ids, ignored (id, cause…), "h" or ""},
--           then, for a rehearsal, the devices that dismissed each created id before; then the bytes that the sender is
--           charged for
--         or, with nothing changed: {"keys"} send all keys | {"due"} | {"generation"} | {"reused"} | {"full", count, bytes,
--           charged bytes} | {"tombs", what, count, charged bytes} | {"moved", epoch, seq} | {"grow"} send it to the script
--           without allow-oom: it must remember an unknown id | {"revoked"} the sender's token is revoked, and the user is
--           not stored | {"search"} find the items of the intervals first, page by
--           page
--         for a page of a search {"page", when it was read, first seq of the next page or 0, members str16 each, charged
--           bytes}
-- Cost    fast path O(1); general path O(ids + creations, and the live items if there is an interval)
if not KEYS[7] then return {'keys'} end
if is_for_known and not call('ZSCORE', due_key, sub(state_key, #due_key)) then return {'same', epoch, seq, {}, {}, {}, ''} end
local retention, body_age, external_age, message_id_until, most_tombs, most_bodies, most_external, most_external_bytes,
  most_intervals, most_prefix_intervals, most_skips, most_message_ids, most_device_dismissals, spread =
  unpack_struct(BOUNDS_FORMAT, packed_args, 38)
local concat, tonumber, find, byte = table.concat, tonumber, string.find, string.byte
local intervals_key, external_key, registrations_key = KEYS[7], KEYS[8], KEYS[9]
local has_intervals = flags % 2 == 1
local raw_counts = call('HGET', state_key, '.c') or NO_COUNTS
local horizon, floor, trimmed_to, external_floor, external_bytes, tomb_total, interval_total, skip_total,
  message_id_total, device_dismissal_total, gone_hidings = unpack_struct(COUNTS_FORMAT, raw_counts .. ZEROS)

-- ---- the sender is charged for the work of its message beyond its own size, also if it is refused. A small change of a
-- record writes all of it, with body and hidings. A hidden item can be made visible and hidden again (24 µs, as 1,311 written
-- bytes). A displacement reads all items of its category, and a creation reads remembered intervals: a read byte counts half
-- as much as a written one. If the message takes the server longer than that, it is charged for its time: 5 ms count as
-- 64 KiB, so no token takes more than 5 % of the server. Reading the clock takes 1 µs. The script does not read it for a small
-- message to a small user, which takes 1 ms at most. A message that changes nothing can be sent again at once, so one that
-- takes more than 5 ms, for which all other users wait, counts ten times. So does the removal of a device.
local extra_bytes, charged_bytes = 0, nil
do
  local is_small = creation_count + id_count + interval_count < 8 and live_count < 200
    and interval_total + skip_total + device_dismissal_total + tomb_total < 200
  local began = not is_small and os.clock()
  function charged_bytes(has_effect)
    if not began then return extra_bytes end
    local units = (os.clock() - began) / 0.005
    if units > 1 and not has_effect then units = 10 * units end
    return math.max(extra_bytes, units * 65536)
  end
end

-- ---- deduplicate: was this message id used before? (L2)
local arg, sender_filter, message_id, message_hash = 2, '', '', ''
if options % 16 >= 8 then
  sender_filter, message_id, message_hash = ARGV[2], ARGV[3], ARGV[4]
  arg = 5
end
if message_id ~= '' then
  local known = call('HGET', state_key, '\0' .. message_id)
  if known then
    if known ~= message_hash then return {'reused'} end
    return {'same', epoch, seq, {}, {}, {}, ''}
  end
end
local remembers_message_id = message_id ~= '' and options % 2 == 1
if remembers_message_id then message_id_total = message_id_total + 1 end

-- ---- read the arguments
local content_arg = arg
local creations, own_ids = {}, {}
if kind == 'u' then
  for i = 1, creation_count do
    local creation = {id = ARGV[arg], record = ARGV[arg+1]}
    creation.category = sub(creation.record, 63, 62 + unpack_struct('B', creation.record, 21))
    if options % 32 >= 16 then creation.timers = ARGV[arg+2]; arg = arg + 1 end
    creations[i] = creation; own_ids[creation.id] = creation
    arg = arg + 2
  end
end
local first_id = arg
arg = arg + id_count
-- ---- find the items of intervals: one scan of 2,000 items would hold the server for 3 to 8 ms. A user with more items than
-- a page is therefore searched before the commit, by read-only calls of this script, a page each. The argument is:
--   w            scan all items here
--   l most I2    scan all items here unless they are more; then answer {"search"}
--   p most I2, from I5, creations I2  return the members of a page, created at this seq or later, that the intervals
--                dismiss; creations: how many may free dismissals by devices in the commit that will follow
--   s when, members str16 each  scan only these members, and the items created since the search began (`when`)
-- When: epoch c3, seq I5, time of the server I7 µs. Category, device and `created` of an item never change, so an item
-- that did not match then does not match now, with one exception: removing a device makes its hidden items visible.
local search, search_page, search_from, searched_seq, will_create = 'w', 0, 0, 0, #creations
local searched
local function server_time()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end
if interval_count > 0 then
  local packed_search = ARGV[arg]
  arg = arg + 1
  search = sub(packed_search, 1, 1)
  if search == 'l' then
    if live_count > unpack_struct('>I2', packed_search, 2) then return {'search'} end
  elseif search == 'p' then search_page, search_from, will_create = unpack_struct('>I2I5I2', packed_search, 2)
  elseif search == 's' then
    local searched_epoch, searched_at
    searched_epoch, searched_seq, searched_at = unpack_struct('>c3I5I7', packed_search, 2)
    -- after a failover a seq may mean another commit: it takes longer than a second, which a search may last
    local is_valid = searched_epoch == epoch and searched_seq <= seq and server_time() - searched_at < 1000000
    if is_valid and sender ~= '' then
      is_valid = tonumber(call('HGET', state_key, '.f:' .. sender) or 0) <= searched_seq
    end
    if not is_valid then return {'search'} end
    local pos, member = 17, nil
    searched = {}
    while pos <= #packed_search do
      member, pos = unpack_struct('>I2c0', packed_search, pos)
      searched[#searched+1] = member
    end
  end
end
local intervals = {}
for i = 1, interval_count do
  local begin, stop, bits, skip_count, own_count = unpack_struct('>I8I8BI2I2', ARGV[arg])
  local interval = {begin = begin, stop = stop, is_open = bits % 2 == 1, is_prefix = bits >= 2, category = ARGV[arg+1],
    skip_count = skip_count, packed_skips = '', own = {}, sender = sender}
  arg = arg + 2
  -- sorted by the caller: equal sets are equal strings
  if skip_count > 0 then interval.packed_skips = ARGV[arg]; arg = arg + 1 end
  for j = 1, own_count do interval.own[j] = ARGV[arg]; arg = arg + 1 end
  interval.field = (interval.is_prefix and 's:' or 's=') .. interval.category
  intervals[i] = interval
end

-- ---- helpers: many keys or members in one call, in chunks that fit Lua's stack
local function call_chunked(command, key, list, chunk)
  for a = 1, #list, chunk do call(command, key, unpack(list, a, math.min(a + chunk - 1, #list))) end
end
local function fetch(command, key, list)
  if #list > 0 and #list <= 2000 then return call(command, key, unpack(list)) end
  local values = {}
  for a = 1, #list, 2000 do
    local chunk = call(command, key, unpack(list, a, math.min(a + 1999, #list)))
    for j = 1, #chunk do values[a + j - 1] = chunk[j] end
  end
  return values
end

-- ---- helpers: intervals
-- the skipped ids of an interval, unpacked when they are first needed
local function skipped_ids(interval)
  local skipped = interval.skipped
  if not skipped then
    local packed, pos = interval.packed_skips or sub(interval.raw, interval.first_skip, interval.last_skip), 1
    skipped = {}
    while pos <= #packed do
      -- half the time of unpack_struct, for up to 20,000 ids
      local last = pos + byte(packed, pos)
      skipped[sub(packed, pos + 1, last)] = true
      pos = last + 1
    end
    interval.skipped = skipped
  end
  return skipped
end

-- ---- helpers: category prefixes match whole segments (semantics.md, "Names")
local is_allowed
do
  local filters = {}
  function is_allowed(filter, category)
    if filter == '' then return true end
    filters[filter] = filters[filter] or category_filter(filter)
    return filters[filter](category)
  end
end

-- ---- helpers: parsed records of this message
-- Returns the letter of a stored record, nil without one. Nothing is written yet when it fails (formats: see codec.lua).
local function kind_of(raw)
  local letter = raw and sub(raw, 1, 1)
  if raw and letter ~= 'L' and letter ~= 'G' and letter ~= 'T' then
    error({err = 'UNKNOWNFORMAT record ' .. (byte(raw) or 0)})
  end
  return letter
end
local parsed = {}
local function parse(id, raw)
  local item = parsed[id]
  if item then return item end
  local created, expires, hidings_length, rest_bytes, reminder_count, category_length, device_length, fingerprint, leaf =
    unpack_struct('>I7I7I2I2BBBc8c32', raw, 2)
  local pos = 63 + category_length + device_length
  item = {id = id, raw = raw, created = created, expires = expires, hidings_length = hidings_length, is_stamped =
    reminder_count > 127,
       reminder_count = reminder_count % 32, is_timed = reminder_count % 128 >= 32,
       fingerprint = fingerprint, leaf = leaf, category = sub(raw, 63, 62 + category_length), device = sub(raw,
         63 + category_length, pos - 1), reminders_pos = pos}
  pos = pos + 7 * item.reminder_count
  item.hidings_pos = pos
  item.body_pos = pos + hidings_length
  item.size = #raw - item.body_pos + 1 + rest_bytes
  parsed[id] = item
  return item
end
-- The hidings by device, read when they are first needed: up to 255 of them cost 1 µs each.
local function hidings_of(item)
  local hidings = item.hidings
  if not hidings then
    local pos, device, hiding = item.hidings_pos, nil, nil
    hidings = {}
    while pos < item.body_pos do
      device, hiding, pos = unpack_struct('>Bc0c13', item.raw, pos)
      hidings[device] = hiding
    end
    item.hidings = hidings
  end
  return hidings
end
-- The devices that hide an item. Many items of a message are hidden by the same ones: those share one set, so that the
-- digests and the announcement need each device once. Many even have equal bytes: those are read once.
local device_sets, sets_by_bytes = {}, {}
local function set_of_names(names)
  local key = concat(names, '\0')
  local set = device_sets[key]
  if not set then
    set = {names = names, packed = {}, sum = {0, 0, 0, 0, 0, 0, 0, 0}}
    for i = 1, #names do set.packed[i] = pack('>Bc0', #names[i], names[i]) end
    device_sets[key] = set
  end
  return set
end
-- Returns the set of an item, and the number of its hidings that began with it. Each other hiding has its own member among
-- the gone items.
local function device_set(item, created_seq)
  local names, count, pos, raw, body_pos = {}, 0, item.hidings_pos, item.raw, item.body_pos
  if item.hidings then
    for device in pairs(item.hidings) do count = count + 1; names[count] = device end
    return set_of_names(names)
  end
  local created = created_seq and pack('>I5', created_seq) or ''
  local key, first_count = created .. sub(raw, pos, body_pos - 1), 0
  local found = sets_by_bytes[key]
  if not found then
    while pos < body_pos do
      local last = pos + byte(raw, pos)
      count = count + 1
      names[count], pos = sub(raw, pos + 1, last), last + 14
      if sub(raw, last + 1, last + 5) == created then first_count = first_count + 1 end
    end
    found = {set_of_names(names), first_count}
    sets_by_bytes[key] = found
  end
  return found[1], found[2]
end
local function count_hidings(item)
  if item.hidings then
    local count = 0
    for _ in pairs(item.hidings) do count = count + 1 end
    return count
  end
  local count, pos, raw, body_pos = 0, item.hidings_pos, item.raw, item.body_pos
  while pos < body_pos do pos, count = pos + byte(raw, pos) + 14, count + 1 end
  return count
end
-- Whether a device (its name str8) has hidden a `"*"` item before, without reading all of its hidings.
local sender_name = pack('>Bc0', #sender, sender)
local function is_hidden(raw, pos, body_pos, name)
  if pos == body_pos or name == '\0' then return false end
  local at = find(raw, name, pos, true)
  if not at or at >= body_pos then return false end
  -- a longer name may contain these bytes: compare whole names
  while pos < body_pos do
    if pos == at then return true end
    pos = pos + byte(raw, pos) + 14
    if pos > at then at = find(raw, name, pos, true) or body_pos end
  end
  return false
end
-- The same, without parsing all of the record.
local function is_record_hidden(raw, category_length, device_length, name)
  local hidings_length, _, reminder_count = unpack_struct('>I2I2B', raw, 16)
  local pos = 63 + category_length + device_length + 7 * (reminder_count % 32)
  return is_hidden(raw, pos, pos + hidings_length, name)
end
-- The effect of a dismissal by one device on an item for `item_device` (L8): 'gone', 'hide' or nil.
local function dismissal_effect(item_device, by_device)
  if by_device == '' or item_device == '' or item_device == by_device then return 'gone' end
  if item_device == '*' then return 'hide' end
end
local removed, hidden, dismissed_unknown, ignored = {}, {}, {}, {}
local function dismiss(item, cause)
  if not is_allowed(sender_filter, item.category) then return end
  local e = dismissal_effect(item.device, sender)
  if e == 'gone' then
    if not item.cause then item.cause = cause; removed[#removed+1] = item end
  elseif e == 'hide' and not item.hiding and not is_hidden(item.raw, item.hidings_pos, item.body_pos,
    sender_name) then
    item.hiding = cause; hidden[#hidden+1] = item
  end
end
local function ignore(id, cause) ignored[#ignored+1] = id; ignored[#ignored+1] = cause end

-- Returns how many dismissals of an unknown id are stored, where the one of this sender begins and ends (nil: none), and
-- how many dismissals by single devices they count as: all but the first, and one more for each 512 bytes of a filter.
-- Up to 255 of them are read without a string for each.
local tomb_name = pack('>Bc0I2c0', #sender, sender, #sender_filter, sender_filter)
local function tomb_senders(raw)
  local pos, count, own, own_end, size, filter_units = 2, 0, nil, nil, #raw, 0
  local at = find(raw, tomb_name, 9, true) or size + 1
  while pos <= size do
    local name_length = byte(raw, pos + 7)
    local high, low = byte(raw, pos + 8 + name_length, pos + 9 + name_length)
    local after = pos + 10 + name_length + 256 * high + low
    -- a longer name or filter may contain these bytes: compare whole dismissals
    if pos + 7 > at then at = find(raw, tomb_name, pos + 7, true) or size + 1 end
    if pos + 7 == at then own, own_end = pos, after end
    pos, count, filter_units = after, count + 1, filter_units + (high - high % 2) / 2
  end
  return count, own, own_end, count - 1 + filter_units
end

-- ---- dismiss by id; the dismissal of an unknown id is remembered as a tombstone (L3)
local new_tombs, new_tomb_units, senders_exceeded = 0, 0, nil
if id_count > 0 then
  local ids = {}
  for i = 1, id_count do ids[i] = ARGV[first_id + i - 1] end
  local raws = fetch('HMGET', state_key, ids)
  for i = 1, id_count do
    local id, raw = ids[i], raws[i]
    local state = kind_of(raw)
    if state == 'L' then
      local item = parse(id, raw)
      if reason ~= 'x' or item.expires <= now then dismiss(item, reason) end
    elseif state ~= 'G' and not dismissed_unknown[id] then
      -- a repeated dismissal of the same sender replaces the earlier one and restarts its retention
      local others, sender_count, is_repeated = '', 1, false
      if raw then
        local begin, stop
        sender_count, begin, stop = tomb_senders(raw)
        is_repeated = begin ~= nil
        others = is_repeated and sub(raw, 2, begin - 1) .. sub(raw, stop) or sub(raw, 2)
        if not is_repeated then sender_count = sender_count + 1 end
      end
      if sender_count > MAX_HIDINGS and not is_repeated then senders_exceeded = sender_count end
      if not raw then
        if not may_add and not is_drain then return {'grow'} end
        new_tombs = new_tombs + 1
        new_tomb_units = new_tomb_units + math.floor(#sender_filter / 512)
      elseif not is_repeated then new_tomb_units = new_tomb_units + 1 + math.floor(#sender_filter / 512) end
      dismissed_unknown[id] = 'T' .. others .. pack('>I7Bc0I2c0', now, #sender, sender, #sender_filter, sender_filter)
      dismissed_unknown[#dismissed_unknown+1] = id
    end
  end
end

-- ---- an aggregation is valid only if every item that it replaces is live and not hidden (semantics.md, "Aggregation")
local is_guarded = options % 64 >= 32
if is_guarded then
  if #removed ~= id_count then return {'moved', epoch, seq} end
  for i = 1, id_count do if removed[i].hidings_length > 0 then return {'moved', epoch, seq} end end
end
-- ---- displace the oldest items of a category that has too many
-- one scan for all categories; of the items, only `created` is read until some are chosen
if kind == 'k' then
  local ids_by_ending, last = {}, trace == '' and #ARGV or #ARGV - 1
  for a = content_arg, last, 2 do ids_by_ending['\0' .. ARGV[a]] = {} end
  for _, member in ipairs(call('ZRANGE', live_key, 0, -1)) do
    local z = find(member, '\0', 1, true)
    local ids = ids_by_ending[sub(member, z)]
    if ids then ids[#ids+1] = sub(member, 1, z - 1) end
  end
  for a = content_arg, last, 2 do
    local ids = ids_by_ending['\0' .. ARGV[a]]
    local surplus = #ids - tonumber(ARGV[a+1])
    if surplus > 0 then
      local raws, created, oldest = fetch('HMGET', state_key, ids), {}, {}
      for i = 1, #ids do
        kind_of(raws[i])
        extra_bytes = extra_bytes + #raws[i] / 2
        created[i], oldest[i] = unpack_struct('>I7', raws[i], 2), i
      end
      local function is_older(i, j) return created[i] < created[j] or (created[i] == created[j] and ids[i] < ids[j]) end
      -- usually one item too many, among up to 2,000: sorting them all would take longer than the rest
      if surplus > 4 then table.sort(oldest, is_older)
      else
        for k = 1, surplus do
          local least = k
          for i = k + 1, #oldest do if is_older(oldest[i], oldest[least]) then least = i end end
          oldest[k], oldest[least] = oldest[least], oldest[k]
        end
      end
      for k = 1, surplus do dismiss(parse(ids[oldest[k]], raws[oldest[k]]), reason) end
    end
  end
end

-- ---- dismiss by interval: items that are known now, but not the ids that this message creates (L3)
-- one scan of the live items for all intervals: each category is compared with the intervals at most once
if interval_count > 0 then
  local by_category, by_prefix, prefixes, begins, stops, seq_limits, own_known = {}, {}, {}, {}, {}, {}, {}
  -- returns the created seq and `created` of an item of this message that is known already
  local function known_item(id)
    local found = own_known[id]
    if found == nil then
      local raw = call('HGET', state_key, id)
      local state = kind_of(raw)
      found = false
      if state == 'L' then
        local item = parse(id, raw)
        found = {tonumber(call('ZSCORE', live_key, id .. '\0' .. item.category)), item.created}
      elseif state == 'G' then
        local _, created_seq, _, _, sender_length = unpack_struct('>I5I5I7c1B', raw, 2)
        found = {created_seq, (unpack_struct('>I7', raw, 22 + sender_length))}
      end
      own_known[id] = found
    end
    return found
  end
  local has_seq_limits = false
  for i = 1, interval_count do
    local interval = intervals[i]
    begins[i], stops[i] = interval.begin, interval.is_open and math.huge or interval.stop
    -- a repeated replace acts as the open interval of its first commit
    if interval.is_open and #interval.own > 0 then
      local top_seq, top_created = -1, -1
      for j = 1, #interval.own do
        local known = known_item(interval.own[j])
        if not known then top_seq = nil; break end
        if known[1] > top_seq then top_seq = known[1] end
        if known[2] > top_created then top_created = known[2] end
      end
      if top_seq then seq_limits[i] = top_seq; has_seq_limits = true; interval.stop = top_created end
    end
    local groups, name = interval.is_prefix and by_prefix or by_category, interval.category
    -- prefixes end with a dot here, and categories get one before they are compared with prefixes
    if interval.is_prefix and name ~= '' then name = name .. '.' end
    local group = groups[name]
    if not group then
      group = {}; groups[name] = group
      if interval.is_prefix then prefixes[#prefixes+1] = name end
    end
    group[#group+1] = i
  end
  -- returns the intervals that match a category (with a dot at its end), in order; false if there are none
  local function matching(category, exact)
    local found = {}
    local function add(group)
      for k = 1, group and #group or 0 do found[#found+1] = group[k] end
    end
    add(exact)
    for k = 1, #prefixes do
      local prefix = prefixes[k]
      if sub(category, 1, #prefix) == prefix then add(by_prefix[prefix]) end
    end
    if #found == 0 then return false end
    table.sort(found)
    -- the union of their times, as separate parts in order: an item outside of it needs no further look
    local order, first, last, from, to = {}, {}, {}, {}, {}
    for k = 1, #found do order[k], from[k], to[k] = found[k], begins[found[k]], stops[found[k]] end
    table.sort(order, function(a, b) return begins[a] < begins[b] end)
    for k = 1, #order do
      local begin, stop, parts = begins[order[k]], stops[order[k]], #first
      if parts == 0 or begin > last[parts] then first[parts+1], last[parts+1] = begin, stop
      elseif stop > last[parts] then last[parts] = stop end
    end
    return {intervals = found, from = from, to = to, first = first, last = last}
  end
  -- Of thousands of categories, those with the same longest prefix match the same intervals. A binary search over the
  -- lengths finds this prefix: to try 31 would take 10 µs for each category. `longest_in` has the prefixes, and their
  -- beginnings at the lengths on the search path, each with its longest prefix (false: none).
  local matching_once
  do
    local lengths, longest_in, by_longest = {}, {}, {}
    local function longest_prefix(category)
      local low, high, longest = 1, #lengths, false
      while low <= high do
        local middle = (low + high - (low + high) % 2) / 2
        local known = longest_in[sub(category, 1, lengths[middle])]
        if known == nil then high = middle - 1 else longest, low = known, middle + 1 end
      end
      return longest
    end
    table.sort(prefixes, function(a, b) return #a < #b end)
    for i = 1, #prefixes do
      if #prefixes[i] ~= lengths[#lengths] then lengths[#lengths+1] = #prefixes[i] end
    end
    -- the shortest first: the longest prefix of a beginning is shorter than the prefix that adds it
    for i = 1, #prefixes do
      local prefix, low, high = prefixes[i], 1, #lengths
      repeat
        local middle = (low + high - (low + high) % 2) / 2
        local length = lengths[middle]
        local beginning = sub(prefix, 1, length)
        if length > #prefix then high = middle - 1 else low = middle + 1 end
        if length == #prefix then longest_in[prefix] = prefix
        elseif length < #prefix and longest_in[beginning] == nil then longest_in[beginning] = longest_prefix(beginning) end
      until length == #prefix
    end
    function matching_once(category)
      local exact = by_category[category]
      category = category .. '.'
      if exact then return matching(category, exact) end
      local longest = longest_prefix(category)
      if longest and not by_longest[longest] then by_longest[longest] = matching(longest) end
      return longest and by_longest[longest]
    end
  end
  local members, next_from = {}, 0
  if searched then
    local seqs = fetch('ZMSCORE', live_key, searched)
    for j = 1, #searched do
      if seqs[j] and tonumber(seqs[j]) <= searched_seq then members[#members+1] = searched[j] end
    end
    local since = call('ZRANGEBYSCORE', live_key, '(' .. searched_seq, '+inf')
    for j = 1, #since do members[#members+1] = since[j] end
  elseif search == 'p' then
    members = call('ZRANGEBYSCORE', live_key, search_from, '+inf', 'LIMIT', 0, search_page)
    local last = members[search_page]
    if last then
      -- the items of one message have one seq: a page ends with all of them
      local last_seq = call('ZSCORE', live_key, last)
      local same = call('ZRANGEBYSCORE', live_key, last_seq, last_seq)
      local k = #same
      while same[k] ~= last do k = k - 1 end
      for j = k + 1, #same do members[#members+1] = same[j] end
      next_from = tonumber(last_seq) + 1
    end
  else members = call('ZRANGE', live_key, 0, -1) end
  local matching_by_category, wanted, wanted_members, groups = {}, {}, {}, {}
  -- members of one category often follow each other: then the end of the member is that of the one before
  local ending, group = '\0', nil
  for j = 1, #members do
    local member = members[j]
    local z = find(member, ending, -#ending, true)
    if not z then
      z = find(member, '\0', 1, true)
      ending = sub(member, z)
      group = matching_by_category[ending]
      if group == nil then group = matching_once(sub(ending, 2)); matching_by_category[ending] = group end
    end
    if group then
      local id = sub(member, 1, z - 1)
      if creation_count == 0 or not own_ids[id] then
        local k = #wanted + 1
        wanted[k], wanted_members[k], groups[k] = id, member, group
      end
    end
  end
  local raws = fetch('HMGET', state_key, wanted)
  local seqs = has_seq_limits and fetch('ZMSCORE', live_key, wanted_members)
  local hits, hide_count = {}, 0
  for j = 1, #wanted do
    local raw, id, group = raws[j], wanted[j], groups[j]
    if byte(raw) ~= 76 then kind_of(raw) end
    local created, first, last = unpack_struct('>I7', raw, 2), group.first, group.last
    local low, high = 1, #first
    while low < high do
      local middle = (low + high + 1) / 2
      middle = middle - middle % 1
      if first[middle] <= created then low = middle else high = middle - 1 end
    end
    local is_inside = created >= first[low] and created <= last[low]
    local effect
    if is_inside and sender ~= '' then
      local category_length, device_length = byte(raw, 21, 22)
      if device_length > 0 then
        effect = dismissal_effect(sub(raw, 63 + category_length, 62 + category_length + device_length), sender)
        is_inside = effect == 'gone' or (effect == 'hide'
          and not is_record_hidden(raw, category_length, device_length, sender_name))
      end
    end
    if is_inside then
      local from, to, found = group.from, group.to, group.intervals
      for k = 1, #found do
        -- an open interval dismisses every matching item known at this commit, regardless of its `created`
        if created >= from[k] and created <= to[k] then
          local i = found[k]
          local is_skipped = intervals[i].skip_count > 0 and skipped_ids(intervals[i])[id]
          if not is_skipped and (not seq_limits[i] or tonumber(seqs[j]) <= seq_limits[i]) then
            local at = search == 'p' and 1 or i  -- a page is one list, in the order of the items
            local list = hits[at]
            if not list then list = {}; hits[at] = list end
            list[#list+1] = j
            if effect == 'hide' then hide_count = hide_count + 1 end
            break
          end
        end
      end
    end
  end
  -- refuse what is surely over the bound before reading each item; a creation frees the dismissals of its id, each of
  -- which counts as up to 128 (a filter has less than 64 KiB)
  local least_total = device_dismissal_total + hide_count - 128 * MAX_HIDINGS * will_create
  if hide_count > 0 and least_total > most_device_dismissals then
    return {'tombs', 'devices', least_total, charged_bytes()}
  end
  if search == 'p' then
    local found = hits[1] or {}
    for k = 1, #found do
      local member = wanted_members[found[k]]
      found[k] = pack('>I2c0', #member, member)
    end
    return {'page', pack('>c3I5I7', epoch, seq, server_time()), next_from, concat(found), charged_bytes(true)}
  end
  for i = 1, interval_count do
    local list = hits[i] or {}
    for k = 1, #list do dismiss(parse(wanted[list[k]], raws[list[k]]), reason == 'd' and 'i' or reason) end
  end
end

-- ---- read the remembered intervals of the message's own prefixes, and of the prefixes of its creations
local remembered = {}
local stored_sizes = {}  -- field: number of its intervals, and of their skipped ids, before this message
do
  local wanted_fields = {}
  local function want_field(field) if remembered[field] == nil then remembered[field] =
    false; wanted_fields[#wanted_fields+1] = field end end
  for i = 1, interval_count do want_field(intervals[i].field) end
  -- creations share the lists of their fields: 100 deep categories have thousands of prefixes
  if has_intervals then
    local lists_above, own_lists = {}, {}
    local function wanted(list)
      for j = 1, #list do want_field(list[j]) end
      return list
    end
    for i = 1, #creations do
      local category = creations[i].category
      local parent = string.match(category, '^(.*)%.') or ''
      if not lists_above[parent] then
        local list, at = {'s:'}, parent ~= '' and 0 or nil
        while at do
          at = find(parent, '.', at + 1, true)
          list[#list+1] = 's:' .. (at and sub(parent, 1, at - 1) or parent)
        end
        lists_above[parent] = wanted(list)
      end
      if not own_lists[category] then own_lists[category] = wanted({'s:' .. category, 's=' .. category}) end
      creations[i].fields_above, creations[i].own_fields = lists_above[parent], own_lists[category]
    end
  end
  local function unpack_intervals(raw)
    local list, pos, skips = {}, 1, 0
    while raw and pos <= #raw do
      local open, sender_device, begin, stop, at, skip_count
      open, sender_device, begin, stop, at, skip_count, pos = unpack_struct('>BBc0I7I7I7I2', raw, pos)
      local interval = {is_open = open == 1, sender = sender_device, begin = begin, stop = stop, at = at,
        skip_count = skip_count, packed_skips = ''}
      if skip_count > 0 then
        interval.packed_skips, interval.raw, interval.first_skip = nil, raw, pos
        for _ = 1, skip_count do pos = pos + 1 + byte(raw, pos) end
        interval.last_skip = pos - 1
        skips = skips + skip_count
      end
      list[#list+1] = interval
    end
    extra_bytes = extra_bytes + #(raw or '') / 2
    return list, skips
  end
  local raw_fields = has_intervals and #wanted_fields > 0 and fetch('HMGET', intervals_key, wanted_fields) or {}
  for i = 1, #wanted_fields do
    local list, skips = unpack_intervals(raw_fields[i])
    remembered[wanted_fields[i]], stored_sizes[wanted_fields[i]] = list, {#list, skips}
  end
  -- only lists that are merged and written need a copy of the skipped ids: a copy of 1.3 MB takes 2 ms
  for i = 1, interval_count do
    for _, other in ipairs(remembered[intervals[i].field]) do
      other.packed_skips = other.packed_skips or sub(other.raw, other.first_skip, other.last_skip)
    end
  end
end

-- ---- create: decide by what was stored before this message
local created_items, dead_on_arrival = {}, {}
if #creations > 0 then
  -- The remembered intervals of some fields, grouped by sender and sorted by begin. `reach[n]` is the latest end of the
  -- first n intervals. Comparing each of 100 creations with each of 960 intervals would take 9 ms.
  local function groups_of(fields)
    if fields.groups then return fields.groups end
    local groups, by_sender = {}, {}
    for j = 1, #fields do
      local list = remembered[fields[j]]
      for k = 1, #list do
        local interval = list[k]
        local group = by_sender[interval.sender]
        if not group then
          group = {sender = interval.sender, reach = {}}
          by_sender[interval.sender], groups[#groups+1] = group, group
        end
        group[#group+1] = interval
      end
    end
    for k = 1, #groups do
      local group, last = groups[k], 0
      if #group > 1 then table.sort(group, function(a, b) return a.begin < b.begin end) end
      for n = 1, #group do
        if group[n].stop > last then last = group[n].stop end
        group.reach[n] = last
      end
    end
    fields.groups = groups
    return groups
  end
  local function is_covered(group, item)
    local created, reach, low, high = item.created, group.reach, 0, #group
    while low < high do
      local middle = math.ceil((low + high) / 2)
      if group[middle].begin <= created then low = middle else high = middle - 1 end
    end
    while low > 0 and reach[low] >= created do
      local interval = group[low]
      if interval.stop >= created and not (interval.is_open and item.is_stamped)
          and not (interval.skip_count > 0 and skipped_ids(interval)[item.id]) then
        return true
      end
      low = low - 1
    end
    return false
  end
  local ids = {}
  for i = 1, #creations do ids[i] = creations[i].id end
  local raws = fetch('HMGET', state_key, ids)
  for i = 1, #creations do
    local creation, raw = creations[i], raws[i]
    local state = kind_of(raw)
    if state == 'L' then
      local item = parse(creation.id, raw)
      ignore(creation.id, item.fingerprint ~= sub(creation.record, 23, 30) and 'conflict' or is_hidden(raw,
        item.hidings_pos, item.body_pos, sender_name) and 'dismissed' or 'duplicate')
    elseif state == 'G' then
      local _, _, _, cause, wlen = unpack_struct('>I5I5I7c1B', raw, 2)
      local fingerprint = sub(raw, 43 + wlen, 50 + wlen)
      ignore(creation.id, fingerprint ~= sub(creation.record, 23, 30) and 'conflict' or cause == 'x' and 'expired'
        or 'dismissed')
    else
      parsed[creation.id] = nil
      local item = parse(creation.id, creation.record)
      parsed[creation.id] = nil
      item.timers = creation.timers
      -- no device needs to hide an item that is dead on arrival
      local is_over = item.expires <= now
      -- dismissals by the backend win over those by devices, ids over intervals
      local function apply_dismissal(device, cause)
        local e = dismissal_effect(item.device, device)
        if e == 'gone' then
          if not item.cause or device < item.by_device or (device == item.by_device and cause == 'd') then item.cause,
              item.by_device = cause, device end
        elseif e == 'hide' and not is_over and hidings_of(item)[device] ~= 'd' then item.hidings[device] = cause end
      end
      local pos = 2
      while raw and pos <= #raw do
        local at, device, filter
        at, device, filter, pos = unpack_struct('>I7Bc0I2c0', raw, pos)
        if is_allowed(filter, creation.category) then apply_dismissal(device, 'd') end
      end
      item.was_tomb = state == 'T'
      if item.was_tomb then item.tomb_units = select(4, tomb_senders(raw)) end
      for _, fields in ipairs(has_intervals and {creation.fields_above, creation.own_fields} or {}) do
        for _, group in ipairs(groups_of(fields)) do
          local effect, is_decided = dismissal_effect(item.device, group.sender), nil
          if effect == 'gone' then is_decided = item.cause and item.by_device <= group.sender
          elseif effect == 'hide' then is_decided = is_over or item.cause or hidings_of(item)[group.sender] end
          if effect and not is_decided and is_covered(group, item) then
            if effect == 'hide' then item.hidings[group.sender] = 'i' else apply_dismissal(group.sender, 'i') end
          end
        end
      end
      if not item.cause and is_over then item.cause, item.by_device = 'x', '' end
      if item.cause then
        item.hidings = nil
        dead_on_arrival[#dead_on_arrival+1] = item
        ignore(creation.id, item.cause == 'x' and 'expired' or 'dismissed')
      elseif not item.is_stamped and item.created < horizon then ignore(creation.id, 'stale')
      else created_items[#created_items+1] = item end
    end
  end
end
-- … and only if the summary itself becomes live: a remembered interval may dismiss the summary though not its items
if is_guarded and #created_items ~= creation_count then return {'moved', epoch, seq} end

-- ---- remove a device: its items are dismissed, its hidings deleted, its cursors invalid (L8); what the caller may not
-- read stays
local removed_device = kind == 'd' and ARGV[content_arg] or nil
local unhidden = {}
local function delete_registration()
  -- one with a push token was stored meanwhile: without it, nothing would name the owner of the token
  if not find(call('HGET', registrations_key, removed_device) or '', '"push":{', 1, true) then
    call('HDEL', registrations_key, removed_device)
  end
end
if removed_device then
  if not stored_head then
    -- it must not create a user who is unknown, or was deleted since the device was read
    delete_registration()
    return {'same', epoch, seq, {}, {}, {}, ''}
  end
  local removed_at, lanes = unpack(call('HMGET', state_key, '.f:' .. removed_device, '.d:' .. removed_device))
  -- a device can repeat this: it has nothing left if nothing changed since, and its view is that of all devices
  local has_nothing = tonumber(removed_at) == seq and not lanes
  local members = has_nothing and {} or call('ZRANGE', live_key, 0, -1)
  for i = 1, #members do members[i] = sub(members[i], 1, find(members[i], '\0', 1, true) - 1) end
  local raws, removed_name = fetch('HMGET', state_key, members), pack('>Bc0', #removed_device, removed_device)
  for i = 1, #members do
    local id, raw = members[i], raws[i]
    kind_of(raw)
    local category_length, device_length = byte(raw, 21, 22)
    local item_device = sub(raw, 63 + category_length, 62 + category_length + device_length)
    local is_own = item_device == removed_device
    local is_concerned = is_own or (item_device == '*'
      and is_record_hidden(raw, category_length, device_length, removed_name))
    -- beyond the limits of the caller, an item stays as it is
    if is_concerned and is_allowed(sender_filter, sub(raw, 63, 62 + category_length)) then
      local item = parse(id, raw)
      if is_own then item.cause = 'p'; removed[#removed+1] = item
      else hidings_of(item)[removed_device] = nil; unhidden[#unhidden+1] = item end
    end
  end
end

-- ---- remind: each index fires once, and never for an item that is gone (L7)
local reminded, remind_index
if kind == 'r' then
  local raw = call('HGET', state_key, ARGV[content_arg])
  if kind_of(raw) ~= 'L' then return {'same', epoch, seq, {}, {}, {}, ''} end
  reminded, remind_index = parse(ARGV[content_arg], raw), tonumber(ARGV[content_arg+1])
  reminded.at = remind_index < reminded.reminder_count and unpack_struct('>I7', raw,
    reminded.reminders_pos + 7 * remind_index) or -1
  if tonumber(call('ZSCORE', agenda_key, 'r' .. reminded.id) or -2) ~= reminded.at then
    return {'same', epoch, seq, {}, {}, {}, ''}
  end
end

-- ---- check the bounds on the net result (semantics.md, "Bounds")
local count_change, bytes_change = #created_items - #removed, 0
for i = 1, #created_items do bytes_change = bytes_change + created_items[i].size end
for i = 1, #removed do bytes_change = bytes_change - removed[i].size end
if #created_items > 0 and (live_count + count_change > most_live or live_bytes + bytes_change > most_live_bytes) then
  return {'full', live_count + count_change, live_bytes + bytes_change, charged_bytes()}
end
do
  -- dismissals by single devices: hidings of live items, and dismissals of an unknown id (see tomb_senders)
  local was_tombs, device_dismissals_before, hidings_exceeded = 0, device_dismissal_total, nil
  device_dismissal_total = device_dismissal_total + new_tomb_units
  -- an item keeps the devices that hide it in 2 bytes of length, and announces them with 1 byte of count
  local function count_created(list)
    for i = 1, #list do
      local item, count = list[i], count_hidings(list[i])
      if count > MAX_HIDINGS then hidings_exceeded = count end
      device_dismissal_total = device_dismissal_total + count
      if item.was_tomb then
        was_tombs = was_tombs + 1
        device_dismissal_total = device_dismissal_total - item.tomb_units
      end
    end
  end
  count_created(created_items)
  count_created(dead_on_arrival)
  for i = 1, #removed do device_dismissal_total = device_dismissal_total - count_hidings(removed[i]) end
  for i = 1, #hidden do
    if not hidden[i].cause then
      local count = count_hidings(hidden[i]) + 1
      if count > MAX_HIDINGS then hidings_exceeded = count end
      device_dismissal_total = device_dismissal_total + 1
    end
  end
  device_dismissal_total = device_dismissal_total - #unhidden
  -- versions before 1.1 did not count them: the difference may be below zero
  if device_dismissal_total < 0 then device_dismissal_total = 0 end
  local tombs_before = tomb_total
  tomb_total = tomb_total + new_tombs - was_tombs
  if tomb_total > most_tombs and tomb_total > tombs_before then return {'tombs', 'ids', tomb_total, charged_bytes()} end
  if senders_exceeded then return {'tombs', 'senders', senders_exceeded, charged_bytes()} end
  if remembers_message_id and message_id_total > most_message_ids then
    return {'tombs', 'messages', message_id_total, charged_bytes()}
  end
  if hidings_exceeded then return {'tombs', 'hidings', hidings_exceeded, charged_bytes()} end
  if device_dismissal_total > most_device_dismissals and device_dismissal_total > device_dismissals_before then
    return {'tombs', 'devices', device_dismissal_total, charged_bytes()}
  end
end

-- ---- merge the new intervals with the remembered ones (L3)
local changed_intervals, first_interval_end = {}, nil
if interval_count > 0 then
  local intervals_before = interval_total
  local function is_subset(a, b)
    if a.packed_skips == b.packed_skips or a.skip_count == 0 then return true end
    if a.skip_count >= b.skip_count or #a.packed_skips > #b.packed_skips then return false end
    local ids, others = skipped_ids(a), skipped_ids(b)
    -- thousands of pairs of long lists: an id in which two of them differ is often one in which the next two differ
    local a_only, b_lacks = a.id_of_its_own, b.missing_id
    if (a_only and not others[a_only]) or (b_lacks and ids[b_lacks]) then return false end
    for id in pairs(ids) do
      if not others[id] then a.id_of_its_own, b.missing_id = id, id; return false end
    end
    return true
  end
  local function absorbs(wider, interval)
    return (wider.sender == interval.sender or wider.sender == '') and wider.begin <= interval.begin
      and wider.stop >= interval.stop and wider.at >= interval.at and (interval.is_open or not wider.is_open)
      and is_subset(wider, interval)
  end
  local function adjoins(other, interval)
    return not other.is_open and not interval.is_open and other.sender == interval.sender
      and other.begin <= interval.stop + 1 and interval.begin <= other.stop + 1
      and other.packed_skips == interval.packed_skips
  end
  for i = 1, interval_count do
    local interval = intervals[i]
    -- an open interval that begins after its stamp dismisses only items known now, so it is not remembered
    if interval.begin <= interval.stop then
      interval.at = interval.stop > now and interval.stop or now
      local list, absorbed = remembered[interval.field], false
      for _, other in ipairs(list) do if absorbs(other, interval) then absorbed = true; break end end
      if not absorbed then
        local k = 1
        while k <= #list do
          local other = list[k]
          if absorbs(interval, other) then table.remove(list, k)
          elseif adjoins(other, interval) then
            if other.begin < interval.begin then interval.begin = other.begin end
            if other.stop > interval.stop then interval.stop = other.stop end
            if other.at > interval.at then interval.at = other.at end
            table.remove(list, k)
            k = 1
          else k = k + 1 end
        end
        list[#list+1] = interval
        changed_intervals[interval.field] = list
        if interval.stop >= clear_from then clear_from = interval.stop + 1 end
        if not first_interval_end or interval.at < first_interval_end then first_interval_end = interval.at end
      end
    end
  end
  local skips_before = skip_total
  for field, list in pairs(changed_intervals) do
    local before, skips = stored_sizes[field][1], 0
    for i = 1, #list do skips = skips + list[i].skip_count end
    interval_total = interval_total + #list - before
    skip_total = skip_total + skips - stored_sizes[field][2]
    if #list > most_prefix_intervals and #list > before then return {'tombs', 'prefix', #list, charged_bytes()} end
  end
  if interval_total > most_intervals and interval_total > intervals_before then
    return {'tombs', 'intervals', interval_total, charged_bytes()}
  end
  -- versions before 1.1 counted no skipped ids: the difference may be below zero
  if skip_total < 0 then skip_total = 0 end
  if skip_total > most_skips and skip_total > skips_before then return {'tombs', 'skips', skip_total, charged_bytes()} end
end

-- ---- decide whether the message changes anything
local is_effective = #created_items + #dead_on_arrival + #removed + #hidden > 0 or (kind ~= 'u' and kind ~= 'k')
-- a dry run ends here: nothing was written
if options >= 64 then
  local created_ids, dismissed_ids, hidden_by = {}, {}, {}
  for i = 1, #created_items do
    created_ids[i], hidden_by[i] = created_items[i].id, {}
    for device in pairs(created_items[i].hidings or {}) do table.insert(hidden_by[i], device) end
  end
  for i = 1, #removed do dismissed_ids[i] = removed[i].id end
  for i = 1, #hidden do if not hidden[i].cause then dismissed_ids[#dismissed_ids+1] = hidden[i].id end end
  return {is_effective and 'ok' or 'same', epoch, seq, created_ids, dismissed_ids, ignored, '', hidden_by, charged_bytes()}
end
local before_a, before_b = A, B
if is_effective then seq = seq + 1 end
if kind == 'f' then
  local e1, e2, e3 = string.byte(epoch, 1, 3)
  local v = (e1 * 65536 + e2 * 256 + e3 + 1) % 16777216
  epoch = pack('>I3', v == 0 and 1 or v)
  user_generation = partition_generation
end

-- ---- digests: the shared view (.h), and the difference of each device's view (.d:<device>)
local sums = {}
local function sum_of(view)
  local sum = sums[view]
  if not sum then sum = {0, 0, 0, 0, 0, 0, 0, 0}; sums[view] = sum end
  return sum
end
local function add_leaf(sum, leaf, sign)
  local a, b, c, d, e, f, g, h = unpack_struct(LANES_FORMAT, leaf)
  sum[1] = sum[1] + sign * a; sum[2] = sum[2] + sign * b; sum[3] = sum[3] + sign * c; sum[4] = sum[4] + sign * d
  sum[5] = sum[5] + sign * e; sum[6] = sum[6] + sign * f; sum[7] = sum[7] + sign * g; sum[8] = sum[8] + sign * h
end
local function count_item(item, sign)
  if item.device == '' or item.device == '*' then
    add_leaf(sum_of('.h'), item.leaf, sign)
    if item.hidings or item.hidings_length > 0 then add_leaf((item.set or device_set(item)).sum, item.leaf, -sign) end
  else
    add_leaf(sum_of('.d:' .. item.device), item.leaf, sign)
    add_leaf(sum_of('.d:'), item.leaf, sign)
  end
end

-- ---- collect the writes
local state_fields, live_entries, gone_entries, agenda_entries, live_removed, agenda_removed = {}, {}, {}, {}, {}, {}
local first_due
local function add_due(at, member)
  agenda_entries[#agenda_entries+1] = at; agenda_entries[#agenda_entries+1] = member
  if not first_due or at < first_due then first_due = at end
  if string.find(HOUSEKEEPING_KINDS, sub(member, 1, 1), 1, true) and (housekeeping_at == 0
      or at < housekeeping_at) then housekeeping_at = at end
end
local function set_field(key, value)
  state_fields[#state_fields+1] = key; state_fields[#state_fields+1] = value
  extra_bytes = extra_bytes + #value
end
local hiding_now = pack('>I5I7', seq, now)
local function with_hidings(item)
  if not item.hidings then return item.raw end
  local parts, set = {}, device_set(item)
  item.set = set
  -- a new hiding is still its cause alone, one letter
  for i = 1, #set.names do
    local hiding = item.hidings[set.names[i]]
    parts[2*i-1], parts[2*i] = set.packed[i], #hiding == 1 and hiding_now .. hiding or hiding
  end
  local h = concat(parts)
  if h == '' and item.hidings_length == 0 then return item.raw end
  return sub(item.raw, 1, 15) .. pack('>I2', #h) .. sub(item.raw, 18, item.hidings_pos - 1) .. h .. sub(item.raw,
    item.body_pos)
end
for i = 1, #created_items do
  local item = created_items[i]
  set_field(item.id, with_hidings(item))
  live_entries[#live_entries+1] = seq; live_entries[#live_entries+1] = item.id .. '\0' .. item.category
  count_item(item, 1)
  if item.expires < NEVER then add_due(item.expires, 'x' .. item.id) end
  local next_reminder
  for j = item.reminder_count, 1, -1 do
    local at = unpack_struct('>I7', item.raw, item.reminders_pos + 7 * (j - 1))
    if at < item.expires then
      next_reminder = at
      if at <= now then break end
    end
  end
  if next_reminder then add_due(next_reminder, 'r' .. item.id) end
  for pos = 1, #(item.timers or ''), 8 do
    local what, at = unpack_struct('>c1I7', item.timers, pos)
    if what ~= 'w' then add_due(at, what .. item.id)
    else
      local window = 'w' .. item.category .. '\0' .. item.device
      local has_room = call('ZCARD', agenda_key) + #agenda_entries / 2 < ENTRIES_OF_AN_ITEM * most_live
      if has_room and not call('ZSCORE', agenda_key, window) then add_due(at, window) end
    end
  end
  if item.was_tomb then call('ZREM', gone_key, item.id) end
end
for i = 1, #dead_on_arrival do
  local item = dead_on_arrival[i]
  set_field(item.id, pack('>c1I5I5I7c1Bc0', 'G', seq, seq, now, item.cause, #item.by_device, item.by_device)
    .. with_hidings(item))
  gone_entries[#gone_entries+1] = seq; gone_entries[#gone_entries+1] = item.id
end
-- an item keeps its hidings when it leaves: they are entries of the history
local gone_hidings_before = gone_hidings
if #removed > 0 then
  for i = 1, #removed do live_removed[i] = removed[i].id .. '\0' .. removed[i].category end
  local scores = fetch('ZMSCORE', live_key, live_removed)
  for i = 1, #removed do
    local item = removed[i]
    if item.hidings_length > 0 then
      local set, first_count = device_set(item, tonumber(scores[i]))
      item.set, gone_hidings = set, gone_hidings + first_count
    end
    count_item(item, -1)
    set_field(item.id, pack('>c1I5I5I7c1Bc0', 'G', seq, tonumber(scores[i]), now, item.cause, #sender, sender)
      .. with_hidings(item))
    gone_entries[#gone_entries+1] = seq; gone_entries[#gone_entries+1] = item.id
    if item.expires < NEVER then agenda_removed[#agenda_removed+1] = 'x' .. item.id end
    if item.reminder_count > 0 then agenda_removed[#agenda_removed+1] = 'r' .. item.id end
    if item.is_timed then agenda_removed[#agenda_removed+1] = 'p' .. item.id; agenda_removed[#agenda_removed+1] = 'q'
        .. item.id end
    -- notifications of the item must be withdrawn
    if item.is_timed or records_removals then add_due(now, 'z' .. item.id) end
  end
end
local hidden_count = 0
for i = 1, #hidden do
  local item = hidden[i]
  if not item.cause then
    hidden_count = hidden_count + 1; hidden[hidden_count] = item
    extra_bytes = extra_bytes + 1311
    local raw, body_pos, added = item.raw, item.body_pos, sender_name .. hiding_now .. item.hiding
    set_field(item.id, sub(raw, 1, 15) .. pack('>I2', item.hidings_length + #added) .. sub(raw, 18, body_pos - 1) .. added
      .. sub(raw, body_pos))
    gone_entries[#gone_entries+1] = seq; gone_entries[#gone_entries+1] = item.id .. '\0' .. sender
    add_leaf(sum_of('.d:' .. sender), item.leaf, -1)
    if records_removals then add_due(now, 'y' .. item.id .. '\0' .. sender) end
  end
end
for i = hidden_count + 1, #hidden do hidden[i] = nil end
for i = 1, #unhidden do
  local item = unhidden[i]
  -- the device can hide it again at once: all other users wait for both, so both together count four times
  extra_bytes = extra_bytes + 3 * 1311
  set_field(item.id, with_hidings(item))
  add_leaf(sum_of('.d:' .. removed_device), item.leaf, 1)
  call('ZREM', gone_key, item.id .. '\0' .. removed_device)
end
for i = 1, #dismissed_unknown do
  set_field(dismissed_unknown[i], dismissed_unknown[dismissed_unknown[i]])
  gone_entries[#gone_entries+1] = seq; gone_entries[#gone_entries+1] = dismissed_unknown[i]
end
if reminded then
  local at = remind_index + 1 < reminded.reminder_count and unpack_struct('>I7', reminded.raw,
    reminded.reminders_pos + 7 * (remind_index + 1))
  if at and at < reminded.expires then add_due(at, 'r' .. reminded.id)
  else agenda_removed[#agenda_removed+1] = 'r' .. reminded.id end
  -- the agenda entry makes the next scheduler enqueue the pushes if this one dies before it does
  if options % 32 >= 16 then
    add_due(now, 'n' .. reminded.id .. '\0' .. remind_index .. '\0' .. seq)
    -- mark the item as timed: notifications of it may be sent from now on
    local raw = reminded.raw
    if not reminded.is_timed then set_field(reminded.id, sub(raw, 1, 19) .. string.char(unpack_struct('B', raw,
        20) + 32) .. sub(raw, 21)) end
  end
end
if remembers_message_id then set_field('\0' .. message_id, message_hash); add_due(message_id_until, 'm' .. message_id) end

-- ---- keep an external message, within its bounds (L13)
local fields = {}
if kind == 'e' then
  local system, body = ARGV[content_arg], ARGV[content_arg + 1]
  call('ZADD', external_key, seq, pack('>I5I7Bc0', seq, now, #system, system) .. body)
  external_bytes = external_bytes + #system + #body
  while call('ZCARD', external_key) > most_external or external_bytes > most_external_bytes do
    local oldest = call('ZRANGE', external_key, 0, 0)[1]
    if not oldest then break end
    call('ZREM', external_key, oldest)
    external_bytes = external_bytes - (#oldest - 13)
    external_floor = unpack_struct('>I5', oldest)
  end
  if call('ZCARD', external_key) == 1 then add_due(now + external_age, 'e') end
end

local is_changed = is_effective or #state_fields > 0 or next(changed_intervals) ~= nil or is_drain
if not is_changed then return {'same', epoch, seq, {}, {}, ignored, '', charged_bytes()} end
if #removed + #dead_on_arrival + #dismissed_unknown > 0 or first_interval_end then
  local at = now + (body_age < retention and body_age or retention)
  if first_interval_end and first_interval_end + retention < at then at = first_interval_end + retention end
  if at < tonumber(call('ZSCORE', agenda_key, 'g') or NEVER) then add_due(at, 'g') end
  if flags % 4 < 2 then flags = flags + 2 end
end
call_chunked('HSET', state_key, state_fields, 2000)
call_chunked('ZREM', live_key, live_removed, 2000)
call_chunked('ZADD', live_key, live_entries, 2000)
call_chunked('ZADD', gone_key, gone_entries, 2000)
call_chunked('ZREM', agenda_key, agenda_removed, 2000)
call_chunked('ZADD', agenda_key, agenda_entries, 2000)
-- not before now: a user with a backlog would precede all others
if first_due then call('ZADD', due_key, 'LT', math.max(first_due, now), sub(state_key, #due_key)) end

-- ---- write digests, intervals, counts and the head
for _, set in pairs(device_sets) do
  for i = 1, #set.names do
    local sum = sum_of('.d:' .. set.names[i])
    for lane = 1, 8 do sum[lane] = sum[lane] + set.sum[lane] end
  end
end
for view, sum in pairs(sums) do
  local old = view == '.h' and pack(LANES_FORMAT, A, B, C, D, E, F, G, H) or call('HGET', state_key, view) or ZEROS
  local a, b, c, d, e, f, g, h = unpack_struct(LANES_FORMAT, old)
  a, b, c, d = (a + sum[1]) % LANE_MODULUS, (b + sum[2]) % LANE_MODULUS, (c + sum[3]) % LANE_MODULUS,
    (d + sum[4]) % LANE_MODULUS
  e, f, g, h = (e + sum[5]) % LANE_MODULUS, (f + sum[6]) % LANE_MODULUS, (g + sum[7]) % LANE_MODULUS,
    (h + sum[8]) % LANE_MODULUS
  if view == '.h' then A, B, C, D, E, F, G, H = a, b, c, d, e, f, g, h
  else
    local v = pack(LANES_FORMAT, a, b, c, d, e, f, g, h)
    if v == ZEROS then call('HDEL', state_key, view) else fields[#fields+1] = view; fields[#fields+1] = v end
  end
end
for field, list in pairs(changed_intervals) do
  local parts = {}
  for i, interval in ipairs(list) do
    parts[i] = pack('>BBc0I7I7I7I2', interval.is_open and 1 or 0, #interval.sender, interval.sender, interval.begin,
      interval.stop, interval.at, interval.skip_count) .. interval.packed_skips
  end
  parts = concat(parts)
  extra_bytes = extra_bytes + #parts
  call('HSET', intervals_key, field, parts)
  if flags % 2 == 0 then flags = flags + 1 end
end
if removed_device then
  fields[#fields+1] = '.f:' .. removed_device; fields[#fields+1] = seq
  delete_registration()
end
local counts = pack(COUNTS_FORMAT, horizon, floor, trimmed_to, external_floor, external_bytes, tomb_total, interval_total,
  skip_total, message_id_total, device_dismissal_total, gone_hidings) .. sub(raw_counts, 49)
if counts ~= raw_counts then fields[#fields+1] = '.c'; fields[#fields+1] = counts end
live_count, live_bytes = live_count + count_change, live_bytes + bytes_change
if is_drain then housekeeping_at = next_housekeeping(agenda_key, now) end
fields[#fields+1] = '.h'
fields[#fields+1] = pack(HEAD_FORMAT, 'H', epoch, seq, clear_from, housekeeping_at, live_count, live_bytes, flags,
  user_generation, A, B, C, D, E, F, G, H)
call_chunked('HSET', state_key, fields, 2000)

-- ---- publish the announcement, return the receipt
local created_ids, dismissed_ids = {}, {}
for i = 1, #created_items do created_ids[i] = created_items[i].id end
for i = 1, #removed do dismissed_ids[i] = removed[i].id end
for i = 1, #hidden do dismissed_ids[#dismissed_ids+1] = hidden[i].id end
if is_effective then
  local function listed(kind_of_scope, names)
    local count, packed = #names, {}
    if count == 0 then return '\0' end
    table.sort(names)
    for i = 1, count do packed[i] = pack('>Bc0', #names[i], names[i]) end
    return pack('>BB', kind_of_scope, count) .. concat(packed)
  end
  local function scope(item)
    if item.device == '' then return '\0' end
    if item.device == '*' then
      if not item.hidings and item.hidings_length == 0 then return '\0' end
      local set = item.set or device_set(item)
      set.scope = set.scope or listed(2, {unpack(set.names)})
      return set.scope
    end
    return listed(1, {'', item.device})  -- '': the view of the backend and of observers
  end
  local parts = {}
  for i = 1, #created_items do
    local item = created_items[i]
    parts[i] = '+' .. scope(item) .. pack('>Bc0I3', #item.id, item.id, #item.raw) .. item.raw
  end
  for i = 1, #removed do
    local item = removed[i]
    parts[#parts+1] = '-' .. scope(item) .. pack('>Bc0I3', #item.id, item.id, #item.category) .. item.category
  end
  local hiding_scope = '-' .. listed(1, {sender})
  for i = 1, #hidden do
    local item = hidden[i]
    parts[#parts+1] = hiding_scope .. pack('>Bc0I3', #item.id, item.id, #item.category)
      .. item.category
  end
  local content
  if kind == 'e' then content = pack('>Bc0', #ARGV[content_arg], ARGV[content_arg]) .. ARGV[content_arg + 1]
  elseif kind == 'f' then content = pack('>I2', spread)
  elseif reminded then
    content = scope(reminded) .. pack('>Bc0Bc0I7', #reminded.id, reminded.id, #reminded.category, reminded.category,
      reminded.at)
  else content = pack('>I2', #parts) .. concat(parts) end
  local has_trace = trace == '' and 0 or 2
  if removed_device then
    -- The close comes first: a frame of this seq or later would make the cursor valid for a copy without what was hidden.
    call('SPUBLISH', state_key, 'K{"close":{"device":"' .. removed_device .. '","code":4003}}')
  end
  call('SPUBLISH', state_key, pack('>c1c3I5c1BI4I4I4I4c1Bc0', 'C', epoch, seq, (kind == 'd' or kind == 'k') and 'u' or kind,
    is_new + has_trace, before_a, before_b, A, B, removed_device and 'p' or reason, #sender, sender) .. content .. trace)
end
-- one entry in 64 of the history checks the bounds; dismissals of unknown ids do not fill it, and can be repeated
local left, hint = #removed + #dead_on_arrival + #hidden + gone_hidings - gone_hidings_before, ''
if left > 0 then
  local total = call('ZCARD', gone_key) + gone_hidings - tomb_total
  if total > most_bodies and total % 64 < left then hint = 'h' end
end
return {is_effective and 'ok' or 'same', epoch, seq, created_ids, dismissed_ids, ignored, hint,
  charged_bytes(kind ~= 'd')}
