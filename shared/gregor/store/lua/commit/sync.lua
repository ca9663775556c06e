-- sync: Return what a reader needs to get from its cursor to the present. Read only; the process parses the records.
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- KEYS    1 state  2 live items by seq  3 gone items by seq  4 generation of the partition  5 external messages
-- ARGV    1 packed values: mode c1 ("s" since a cursor, "a" since a cursor with all live items, "f" full), is_quick B (1: the
--         digest is not needed, or known without records), now I8 µs, cursor's seq I8, its epoch c3 (NUL: none), device to
--         the end ("": the backend)  2 category filter ("" all)
-- Returns {"none"} | {"generation"} | {"due"}, or {what, head, lanes of the device, counts, seq at which the device was
--         removed, external messages}. what is "u": unchanged, except for external messages; else "d" (delta) or "f" (full),
--         followed by: ids, seqs, records, gone members, gone records, number of records that were examined (256 bytes of
--         gone records count as one, if they are large), CPU time in µs if there is a filter (else 0). Items outside of
--         the filter, and entries that are not removals for the reader, are left out.
-- Cost    unchanged O(1); delta O(changes); full O(live items)
-- A delta reads so many records of gone items in one call, and at most so many bytes of them more than the live items have.
local GONE_PAGE, GONE_BYTES_BEYOND_LIVE = 8, 65536
local state_key, live_key, gone_key, generation_key, external_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local mode, is_quick, now, cursor, cursor_epoch = unpack_struct('>c1BI8I8c3', ARGV[1])
local device, has_filter = sub(ARGV[1], 22), ARGV[2] ~= ''
-- reading the clock is a system call: it would add about 5 µs to an unchanged sync without a filter
local began, is_wanted = has_filter and os.clock(), category_filter(ARGV[2])
local fields = call('HMGET', state_key, '.h', '.d:' .. device, '.c', '.f:' .. device)
local head, counts = fields[1], (fields[3] or NO_COUNTS) .. ZEROS
if not head then return {'none'} end
if sub(head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(head)} end
local epoch, seq, _, housekeeping_at, live_count, live_bytes, _, user_generation = unpack_struct(HEAD_FIELDS, head, 2)
if user_generation ~= tonumber(call('GET', generation_key) or 0) then return {'generation'} end
if housekeeping_at > 0 and housekeeping_at <= now then return {'due'} end
local _, floor = unpack_struct(COUNTS_FORMAT, counts)
local valid = cursor_epoch == epoch and cursor <= seq and cursor >= floor and cursor >= tonumber(fields[4] or 0)
local from, externals = string.format('(%.0f', cursor), {}
if valid and cursor < seq then externals = call('ZRANGEBYSCORE', external_key, from, '+inf') end
if valid and cursor == seq and is_quick == 1 and mode ~= 'f' then
  return {'u', head, fields[2] or '', counts, fields[4] or '0', externals}
end
local function fetch(ids)
  local records = {}
  for a = 1, #ids, 2000 do
    local part = call('HMGET', state_key, unpack(ids, a, math.min(a + 1999, #ids)))
    for j = 1, #part do records[a + j - 1] = part[j] end
  end
  return records
end
local function view_reply(what, scored, gone_members, out_records, examined)
  local ids, seqs = {}, {}
  for i = 1, #scored, 2 do
    local z = string.find(scored[i], '\0', 1, true)
    -- without a filter (most readers), skip the substring and the call for each item
    if not has_filter or is_wanted(sub(scored[i], z + 1)) then
      ids[#ids+1] = sub(scored[i], 1, z - 1); seqs[#seqs+1] = scored[i+1]
    end
  end
  -- a member alone costs a quarter of a record
  -- os.clock also counts io-threads, so the time is bounded: 0.5 ms, and 5 µs for each member that the filter compared
  local most_us = 500 + 5 * (#scored / 2 + 4 * examined)
  examined = examined + #ids + math.floor(#scored / 8)
  local records = fetch(ids)
  -- the charge for records does not cover the filter: a member with a deep category takes up to 5 µs
  local cpu_us = has_filter and math.min(most_us, (os.clock() - began) * 1000000) or 0
  return {what, head, fields[2] or '', counts, fields[4] or '0', externals, ids, seqs, records, gone_members,
    out_records, examined, cpu_us}
end
-- Return the records of gone items, and their bytes; nil and the bytes if these are too many for a delta.
local function fetch_gone(ids)
  local records, bytes = {}, 0
  for a = 1, #ids, GONE_PAGE do
    local part = call('HMGET', state_key, unpack(ids, a, math.min(a + GONE_PAGE - 1, #ids)))
    for j = 1, #part do
      records[a + j - 1] = part[j]
      bytes = bytes + #(part[j] or '')
    end
    if bytes > live_bytes + GONE_BYTES_BEYOND_LIVE then return nil, bytes end
  end
  return records, bytes
end
-- Return the entries that can be removals for the reader (of items that it may have had at its cursor), their records, and
-- how many were examined. The first two are nil if the full copy needs less work.
local function removals(members)
  local wanted, out_ids, kept, records = {}, {}, {}, {}
  for i = 1, #members do
    local z = string.find(members[i], '\0', 1, true)
    if not z or sub(members[i], z + 1) == device then
      wanted[#wanted+1] = members[i]
      out_ids[#out_ids+1] = z and sub(members[i], 1, z - 1) or members[i]
    end
  end
  local raws, bytes = fetch_gone(out_ids)
  local examined = math.max(#wanted, math.floor(bytes / 256)) + math.floor((#members - #wanted) / 4)
  if not raws then return nil, nil, examined end
  for i = 1, #wanted do
    local raw = raws[i]
    local letter = raw and sub(raw, 1, 1)
    local is_other = not raw or letter == 'T'
    if letter == 'G' then
      local _, created = unpack_struct('>I5I5', raw, 2)
      is_other = created > cursor
      if not is_other and has_filter then
        local at = 21 + string.byte(raw, 20)
        local format = sub(raw, at, at)
        -- the process refuses a record of another format
        is_other = (format == 'L' or format == 'l') and not is_wanted(category_of_gone(raw))
      end
    end
    if not is_other then kept[#kept+1] = wanted[i]; records[#kept] = raw end
  end
  return kept, records, examined
end
local examined_before = 0
if live_count > FEW_NAMES and (mode ~= 's' or not valid) then collectgarbage() end
if valid and mode ~= 'f' then
  -- with more gone items than this the full copy is shorter; the bound also limits the work of a delta
  local most_gone = math.min(2 * live_count + 64, 500)
  local gone_members = call('ZRANGEBYSCORE', gone_key, from, '+inf', 'LIMIT', 0, math.min(most_gone, FEW_NAMES) + 1)
  if #gone_members > FEW_NAMES then
    collectgarbage()
    -- counted first: a reader that repeats old cursors must not read every part of the history
    gone_members = call('ZCOUNT', gone_key, from, '+inf') <= most_gone
      and call('ZRANGEBYSCORE', gone_key, from, '+inf') or nil
  end
  if gone_members and #gone_members <= most_gone then
    local kept, records, examined = removals(gone_members)
    if kept then
      local scored = call('ZRANGEBYSCORE', live_key, mode == 'a' and '-inf' or from, '+inf', 'WITHSCORES')
      return view_reply('d', scored, kept, records, examined)
    end
    examined_before = examined
  end
end
return view_reply('f', call('ZRANGE', live_key, 0, -1, 'WITHSCORES'), {}, {}, examined_before)
