-- commit, the general path: every message that the fast paths left. Decides first, then checks the bounds, then writes.
local retention, body_age, external_age, mid_keep, max_tombs, max_bodies, max_external, max_external_bytes, max_spans,
  max_prefix_spans, spread = upk(BOUNDS, ARGV[1], 29)
local concat, tonumber, find = table.concat, tonumber, string.find
local ks, has_spans = KEYS[7], flags % 2 == 1
local raw_counts = call('HGET', kh, '.c') or NO_COUNTS
local horizon, floor, trimmed_to, external_floor, external_bytes, tomb_count, span_count = upk(COUNTS, raw_counts)

-- ---- is the message known? (L2)
local p, limits, mid, mid_content = 2, '', '', ''
if options % 16 >= 8 then
  limits, mid, mid_content = ARGV[2], ARGV[3], ARGV[4]
  p = 5
end
if mid ~= '' then
  local known = call('HGET', kh, '\0' .. mid)
  if known then
    if known ~= mid_content then return {'reused'} end
    return {'same', epoch, seq, {}, {}, {}, ''}
  end
end
local remember = mid ~= '' and options % 2 == 1

-- ---- arguments
local rest = p
local creations, own = {}, {}
if kind == 'u' then
  for i = 1, nc do
    local c = {id = ARGV[p], record = ARGV[p+1]}
    c.category = sub(c.record, 63, 62 + upk('B', c.record, 21))
    if options % 32 >= 16 then c.timers = ARGV[p+2]; p = p + 1 end
    creations[i] = c; own[c.id] = c
    p = p + 2
  end
end
local first_id = p
p = p + ni
local spans = {}
for i = 1, nv do
  local begin, stop, bits, nskip, nown = upk('>I8I8BI2I2', ARGV[p])
  local s = {begin = begin, stop = stop, open = bits % 2 == 1, prefix = bits >= 2, category = ARGV[p+1], skip = {}, own = {}, by = by}
  p = p + 2
  for j = 1, nskip do s.skip[ARGV[p]] = true; p = p + 1 end
  for j = 1, nown do s.own[j] = ARGV[p]; p = p + 1 end
  s.field = (s.prefix and 's:' or 's=') .. s.category
  spans[i] = s
end

-- ---- many keys or members in one call, in chunks that fit Lua's stack
local function many(command, key, list, chunk)
  for a = 1, #list, chunk do call(command, key, unpack(list, a, math.min(a + chunk - 1, #list))) end
end
local function fetch(command, key, list)
  local out = {}
  for a = 1, #list, 2000 do
    local got = call(command, key, unpack(list, a, math.min(a + 1999, #list)))
    for j = 1, #got do out[a + j - 1] = got[j] end
  end
  return out
end

-- ---- categories: whole segments (semantics.md, "Names")
local function covered(prefix, category)
  return prefix == '' or prefix == category or sub(category, 1, #prefix + 1) == prefix .. '.'
end
local function may(cats, category)
  if cats == '' then return true end
  for prefix in string.gmatch(cats, '([^,]+)') do
    if covered(prefix == '*' and '' or prefix, category) then return true end
  end
  return false
end

-- ---- records met in this message
local met = {}
local function parse(id, raw)
  local t = met[id]
  if t then return t end
  local created, expires, hlen, rest_bytes, nrem, clen, dlen, fp, leaf = upk('>I7I7I2I2BBBc8c32', raw, 2)
  local o = 63 + clen + dlen
  t = {id = id, raw = raw, created = created, expires = expires, hlen = hlen, stamped = nrem > 127, nrem = nrem % 32, timed = nrem % 128 >= 32,
       fp = fp, leaf = leaf, category = sub(raw, 63, 62 + clen), dev = sub(raw, 63 + clen, o - 1), rem_at = o, hides = {}}
  o = o + 7 * t.nrem
  t.hides_at = o
  t.body_at = o + hlen
  while o < t.body_at do
    local d, s
    d, s, o = upk('>Bc0c13', raw, o)
    t.hides[d] = s
  end
  t.size = #raw - t.body_at + 1 + rest_bytes
  met[id] = t
  return t
end
-- what a dismissal by `who` does to an item for `dev` (L8): 'gone', 'hide' or nothing
local function effect(dev, who)
  if who == '' or dev == '' or dev == who then return 'gone' end
  if dev == '*' then return 'hide' end
end
local gone, hidden, tombs, ignored = {}, {}, {}, {}
local function dismiss(t, why)
  if not may(limits, t.category) then return end
  local e = effect(t.dev, by)
  if e == 'gone' then
    if not t.why then t.why = why; gone[#gone+1] = t end
  elseif e == 'hide' and not t.hides[by] and not t.hiding then
    t.hiding = why; hidden[#hidden+1] = t
  end
end
local function ignore(id, why) ignored[#ignored+1] = id; ignored[#ignored+1] = why end

-- ---- dismissals by id: of what is known now; of an unknown id the fact is remembered (L3)
local new_tombs = 0
if ni > 0 then
  local ids = {}
  for i = 1, ni do ids[i] = ARGV[first_id + i - 1] end
  local raws = fetch('HMGET', kh, ids)
  for i = 1, ni do
    local id, raw = ids[i], raws[i]
    local state = raw and sub(raw, 1, 1)
    if state == 'L' then
      local t = parse(id, raw)
      if reason ~= 'x' or t.expires <= now then dismiss(t, reason) end
    elseif state ~= 'G' and not tombs[id] then
      -- the same sender's earlier fact is replaced: it is remembered from now on
      local o, others = 2, ''
      while raw and o <= #raw do
        local start, who, cats = o, nil, nil
        _, who, cats, o = upk('>I7Bc0I2c0', raw, o)
        if who ~= by or cats ~= limits then others = others .. sub(raw, start, o - 1) end
      end
      if not raw then new_tombs = new_tombs + 1 end
      tombs[id] = 'T' .. others .. pack('>I7Bc0I2c0', now, #by, by, #limits, limits)
      tombs[#tombs+1] = id
    end
  end
end

-- an aggregation holds only if all that it folds is live and hidden by none (semantics.md, "Aggregation")
local guarded = options % 64 >= 32
if guarded then
  if #gone ~= ni then return {'moved', epoch, seq} end
  for i = 1, ni do if next(gone[i].hides) then return {'moved', epoch, seq} end end
end
-- the oldest of a category leave where there are too many of it
if kind == 'k' then
  local category, most, members = ARGV[rest], tonumber(ARGV[rest+1]), {}
  for _, member in ipairs(call('ZRANGE', kn, 0, -1)) do
    local z = string.find(member, '\0', 1, true)
    if sub(member, z + 1) == category then members[#members+1] = sub(member, 1, z - 1) end
  end
  local surplus = #members - most
  if surplus > 0 then
    local raws = fetch('HMGET', kh, members)
    for i = 1, #members do members[i] = parse(members[i], raws[i]) end
    table.sort(members, function(a, b) return a.created < b.created or (a.created == b.created and a.id < b.id) end)
    for i = 1, surplus do dismiss(members[i], reason) end
  end
end

-- ---- intervals: of what is known now; never the ids that the message itself creates (L3)
if nv > 0 then
  local members, seqs = call('ZRANGE', kn, 0, -1), nil
  for i = 1, nv do
    local s = spans[i]
    -- a repeat of a replace acts as the open interval of its first commit
    local seq_limit
    if s.open and #s.own > 0 then
      local top_seq, top_created = -1, -1
      local raws = call('HMGET', kh, unpack(s.own))
      for j = 1, #s.own do
        local raw = raws[j]
        local state = raw and sub(raw, 1, 1)
        local cs, created
        if state == 'L' then
          local t = parse(s.own[j], raw)
          cs, created = tonumber(call('ZSCORE', kn, t.id .. '\0' .. t.category)), t.created
        elseif state == 'G' then
          local _, c, _, _, wlen = upk('>I5I5I7c1B', raw, 2)
          cs, created = c, (upk('>I7', raw, 22 + wlen))
        end
        if not cs then top_seq = nil; break end
        if cs > top_seq then top_seq = cs end
        if created > top_created then top_created = created end
      end
      if top_seq then seq_limit = top_seq; s.stop = top_created end
    end
    if seq_limit and not seqs then seqs = fetch('ZMSCORE', kn, members) end
    local want = {}
    -- a plain search for NUL and category passes over what does not match at the least cost
    local pattern = s.category == '' and '\0' or '\0' .. s.category
    for j = 1, #members do
      local member = members[j]
      local z, stop = find(member, pattern, 1, true)
      if z and (stop == #member or (s.prefix and (s.category == '' or sub(member, stop + 1, stop + 1) == '.')))
        and (not seq_limit or tonumber(seqs[j]) <= seq_limit) then
        local id = sub(member, 1, z - 1)
        if not s.skip[id] and not own[id] then want[#want+1] = id end
      end
    end
    local raws = fetch('HMGET', kh, want)
    for j = 1, #want do
      -- an open interval takes every matching item known at this commit, whatever its `created`
      local created = upk('>I7', raws[j], 2)
      if created >= s.begin and (s.open or created <= s.stop) then dismiss(parse(want[j], raws[j]), reason == 'd' and 'i' or reason) end
    end
  end
end

-- ---- remembered intervals: those of the message's own prefixes, and of the prefixes of what it creates
local remembered, asked = {}, {}
local function ask(field) if remembered[field] == nil then remembered[field] = false; asked[#asked+1] = field end end
for i = 1, nv do ask(spans[i].field) end
if has_spans then
  for i = 1, #creations do
    local category = creations[i].category
    ask('s:'); ask('s=' .. category)
    local at = 0
    while at do
      at = string.find(category, '.', at + 1, true)
      local field = 's:' .. (at and sub(category, 1, at - 1) or category)
      creations[i][#creations[i]+1] = field
      ask(field)
    end
    creations[i][#creations[i]+1] = 's:'; creations[i][#creations[i]+1] = 's=' .. category
  end
end
local function unpack_spans(raw)
  local list, o = {}, 1
  while raw and o <= #raw do
    local open, who, begin, stop, at, nskip
    open, who, begin, stop, at, nskip, o = upk('>BBc0I7I7I7I2', raw, o)
    local s = {open = open == 1, by = who, begin = begin, stop = stop, at = at, skip = {}}
    for _ = 1, nskip do
      local id
      id, o = upk('>Bc0', raw, o)
      s.skip[id] = true
    end
    list[#list+1] = s
  end
  return list
end
if #asked > 0 and has_spans then
  local raws = fetch('HMGET', ks, asked)
  for i = 1, #asked do remembered[asked[i]] = unpack_spans(raws[i]) end
else
  for i = 1, #asked do remembered[asked[i]] = {} end
end

-- ---- creations, judged by the facts that stood before this message
local born, dead = {}, {}
if #creations > 0 then
  local ids = {}
  for i = 1, #creations do ids[i] = creations[i].id end
  local raws = fetch('HMGET', kh, ids)
  for i = 1, #creations do
    local c, raw = creations[i], raws[i]
    local state = raw and sub(raw, 1, 1)
    if state == 'L' then
      local t = parse(c.id, raw)
      ignore(c.id, t.fp ~= sub(c.record, 23, 30) and 'conflict' or t.hides[by] and 'dismissed' or 'duplicate')
    elseif state == 'G' then
      local _, _, _, why, wlen = upk('>I5I5I7c1B', raw, 2)
      local fp = sub(raw, 43 + wlen, 50 + wlen)
      ignore(c.id, fp ~= sub(c.record, 23, 30) and 'conflict' or why == 'x' and 'expired' or 'dismissed')
    else
      met[c.id] = nil
      local t = parse(c.id, c.record)
      met[c.id] = nil
      t.timers = c.timers
      -- the backend's facts first, then by device, ids before intervals
      local function fact(who, why)
        local e = effect(t.dev, who)
        if e == 'gone' then
          if not t.why or who < t.who or (who == t.who and why == 'd') then t.why, t.who = why, who end
        elseif e == 'hide' and t.hides[who] ~= 'd' then t.hides[who] = why end
      end
      local o = 2
      while raw and o <= #raw do
        local at, who, cats
        at, who, cats, o = upk('>I7Bc0I2c0', raw, o)
        if may(cats, c.category) then fact(who, 'd') end
      end
      t.was_tomb = state == 'T'
      for j = 1, #c do
        for _, s in ipairs(remembered[c[j]]) do
          if t.created >= s.begin and t.created <= s.stop and not s.skip[c.id] and not (s.open and t.stamped) then
            fact(s.by, 'i')
          end
        end
      end
      if not t.why and t.expires <= now then t.why, t.who = 'x', '' end
      if t.why then
        dead[#dead+1] = t
        ignore(c.id, t.why == 'x' and 'expired' or 'dismissed')
      elseif not t.stamped and t.created < horizon then ignore(c.id, 'stale')
      else born[#born+1] = t end
    end
  end
end
-- … and if what replaces it would be seen: an interval that stands may catch the summary, which its items escaped
if guarded and #born ~= nc then return {'moved', epoch, seq} end
