-- sync: what a reader needs to go from a cursor to now. Read only; no record is parsed, the process does that.
-- KEYS 1 state  2 live by seq  3 gone by seq  4 flush generation  5 external messages
-- ARGV 1 packed: mode c1 ("s" since a cursor, "a" since a cursor with all that is live, "f" full), quick B (1: no digest is
--        needed, or it is known without records), now I8 µs, cursor's seq I8, its epoch c3 (NUL: none), device to the end
--        ("" the backend)
-- Returns {"none"} | {"generation"} | {"due"}, or {what, head, device lanes, counts, device floor, externals}: what "u":
--      nothing but perhaps externals; else "d" or "f", and behind it: ids, seqs, records, out members, out records
-- Cost O(1) unchanged; O(changes) delta; O(live items) full.
local mode, quick, now, cursor, cursor_epoch = upk('>c1BI8I8c3', ARGV[1])
local device = sub(ARGV[1], 22)
local kh, kn, ko = KEYS[1], KEYS[2], KEYS[3]
local got = call('HMGET', kh, '.h', '.d:' .. device, '.c', '.f:' .. device)
local head, counts = got[1], got[3] or NO_COUNTS
if not head then return {'none'} end
local epoch, seq, _, wake, n, _, _, gen = upk(HEAD, head)
if gen ~= tonumber(call('GET', KEYS[4]) or 0) then return {'generation'} end
if wake > 0 and wake <= now then return {'due'} end
local _, floor = upk(COUNTS, counts)
local valid = cursor_epoch == epoch and cursor <= seq and cursor >= floor and cursor >= tonumber(got[4] or 0)
local from, externals = string.format('(%.0f', cursor), {}
if valid and cursor < seq then externals = call('ZRANGEBYSCORE', KEYS[5], from, '+inf') end
if valid and cursor == seq and quick == 1 and mode ~= 'f' then
  return {'u', head, got[2] or '', counts, got[4] or '0', externals}
end
local function fetch(ids)
  local out = {}
  for a = 1, #ids, 2000 do
    local part = call('HMGET', kh, unpack(ids, a, math.min(a + 1999, #ids)))
    for j = 1, #part do out[a + j - 1] = part[j] end
  end
  return out
end
local function answer(what, scored, outs, out_ids)
  local ids, seqs = {}, {}
  for i = 1, #scored, 2 do
    ids[#ids+1] = sub(scored[i], 1, string.find(scored[i], '\0', 1, true) - 1)
    seqs[#seqs+1] = scored[i+1]
  end
  return {what, head, got[2] or '', counts, got[4] or '0', externals, ids, seqs, fetch(ids), outs, fetch(out_ids)}
end
if valid and mode ~= 'f' then
  -- past this many departures the full copy is the shorter answer; the bound keeps a delta's work small
  local most = 2 * n + 64
  local outs = call('ZRANGEBYSCORE', ko, from, '+inf', 'LIMIT', 0, most + 1)
  if #outs <= most then
    local out_ids = {}
    for i = 1, #outs do
      local z = string.find(outs[i], '\0', 1, true)
      out_ids[i] = z and sub(outs[i], 1, z - 1) or outs[i]
    end
    return answer('d', call('ZRANGEBYSCORE', kn, mode == 'a' and '-inf' or from, '+inf', 'WITHSCORES'), outs, out_ids)
  end
end
return answer('f', call('ZRANGE', kn, 0, -1, 'WITHSCORES'), {}, {})
