-- sync: what a reader needs to go from a cursor to now. Read only; no record is parsed, the process does that.
-- KEYS 1 head  2 records  3 live by seq  4 gone by seq  5 flush generation  6 external messages
-- ARGV 1 mode: "s" since a cursor, "a" since a cursor with all that is live, "f" full  2 cursor's seq  3 cursor's epoch c3 ("" none)  4 device ("" the backend)
--      5 now µs  6 "1": no digest is needed, or it is known without records
-- Returns {"none"} | {"generation"} | {"due"} | {what, head, device lanes, floor, device floor, external floor,
--      externals, ids, seqs, records, out members, out records}; what: u (nothing but perhaps externals), d, f
-- Cost O(1) unchanged; O(changes) delta; O(live items) full.
local kh, kr, kn, ko = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local got = call('HMGET', kh, 'h', 'd:' .. ARGV[4], 'f', 'f:' .. ARGV[4], 'xf')
if not got[1] then return {'none'} end
local epoch, seq, _, wake, n, _, _, gen = upk(HEAD, got[1])
if gen ~= tonumber(call('GET', KEYS[5]) or 0) then return {'generation'} end
if wake > 0 and wake <= tonumber(ARGV[5]) then return {'due'} end
local cursor = tonumber(ARGV[2])
local floor = tonumber(got[3] or 0)
local valid = ARGV[3] == epoch and cursor <= seq and cursor >= floor and cursor >= tonumber(got[4] or 0)
local function fetch(ids)
  local out = {}
  for a = 1, #ids, 2000 do
    local part = call('HMGET', kr, unpack(ids, a, math.min(a + 1999, #ids)))
    for j = 1, #part do out[a + j - 1] = part[j] end
  end
  return out
end
local function answer(what, externals, ids, seqs, outs, out_ids)
  return {what, got[1], got[2] or '', got[3] or '0', got[4] or '0', got[5] or '0', externals, ids, seqs, fetch(ids), outs, fetch(out_ids)}
end
local function split(scored)
  local ids, seqs = {}, {}
  for i = 1, #scored, 2 do
    ids[#ids+1] = sub(scored[i], 1, string.find(scored[i], '\0', 1, true) - 1)
    seqs[#seqs+1] = scored[i+1]
  end
  return ids, seqs
end
local externals = {}
if valid and cursor < seq then externals = call('ZRANGEBYSCORE', KEYS[6], '(' .. ARGV[2], '+inf') end
if valid and cursor == seq and ARGV[6] == '1' and ARGV[1] ~= 'f' then return answer('u', externals, {}, {}, {}, {}) end
if valid and ARGV[1] ~= 'f' then
  local from = '(' .. ARGV[2]
  -- past this many departures the full copy is the shorter answer; the bound keeps a delta's work small
  local most = 2 * n + 64
  local outs = call('ZRANGEBYSCORE', ko, from, '+inf', 'LIMIT', 0, most + 1)
  if #outs <= most then
    local ids, seqs = split(call('ZRANGEBYSCORE', kn, ARGV[1] == 'a' and '-inf' or from, '+inf', 'WITHSCORES'))
    local out_ids = {}
    for i = 1, #outs do
      local z = string.find(outs[i], '\0', 1, true)
      out_ids[i] = z and sub(outs[i], 1, z - 1) or outs[i]
    end
    return answer('d', externals, ids, seqs, outs, out_ids)
  end
end
local ids, seqs = split(call('ZRANGE', kn, 0, -1, 'WITHSCORES'))
return answer('f', externals, ids, seqs, {}, {})
