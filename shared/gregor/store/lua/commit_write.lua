-- commit, the end of the general path: bounds, what is remembered, writes, announcement. Nothing was written so far.

-- ---- forgetting a device: its items end, its hidings go, its cursors are void (L8)
local leaving = kind == 'd' and ARGV[rest] or nil
local unhidden = {}
if leaving then
  local members = call('ZRANGE', kn, 0, -1)
  for i = 1, #members do members[i] = sub(members[i], 1, string.find(members[i], '\0', 1, true) - 1) end
  local raws = fetch('HMGET', kh, members)
  for i = 1, #members do
    local t = parse(members[i], raws[i])
    if t.dev == leaving then t.why = 'p'; gone[#gone+1] = t
    elseif t.hides[leaving] then t.hides[leaving] = nil; unhidden[#unhidden+1] = t end
  end
end

-- ---- a reminder fires once for its index, and never for what is gone (L7)
local reminded, remind_index
if kind == 'r' then
  local raw = call('HGET', kh, ARGV[rest])
  if not raw or sub(raw, 1, 1) ~= 'L' then return {'same', epoch, seq, {}, {}, {}, ''} end
  reminded, remind_index = parse(ARGV[rest], raw), tonumber(ARGV[rest+1])
  reminded.at = remind_index < reminded.nrem and upk('>I7', raw, reminded.rem_at + 7 * remind_index) or -1
  if tonumber(call('ZSCORE', ka, 'r' .. reminded.id) or -2) ~= reminded.at then return {'same', epoch, seq, {}, {}, {}, ''} end
end

-- ---- bounds, on the netted result (semantics.md, "Bounds")
local d_count, d_bytes = #born - #gone, 0
for i = 1, #born do d_bytes = d_bytes + born[i].size end
for i = 1, #gone do d_bytes = d_bytes - gone[i].size end
if #born > 0 and (n + d_count > max_live or bytes + d_bytes > max_bytes) then return {'full', n + d_count, bytes + d_bytes} end
local was_tombs = 0
for i = 1, #born do if born[i].was_tomb then was_tombs = was_tombs + 1 end end
for i = 1, #dead do if dead[i].was_tomb then was_tombs = was_tombs + 1 end end
local tombs_before, spans_before = tomb_count, span_count
tomb_count = tomb_count + new_tombs - was_tombs
if tomb_count > max_tombs and tomb_count > tombs_before then return {'tombs', 'ids', tomb_count} end

-- ---- intervals to remember: absorbed, absorbing, united (L3)
local function subset(a, b) for id in pairs(a) do if not b[id] then return false end end return true end
local function absorbs(o, s)
  return (o.by == s.by or o.by == '') and o.begin <= s.begin and o.stop >= s.stop and o.at >= s.at and (s.open or not o.open)
    and subset(o.skip, s.skip)
end
local function unites(o, s)
  return not o.open and not s.open and o.by == s.by and o.begin <= s.stop + 1 and s.begin <= o.stop + 1
    and subset(o.skip, s.skip) and subset(s.skip, o.skip)
end
local dirty, span_end = {}, nil
for i = 1, nv do
  local s = spans[i]
  -- (an open one that begins after its stamp acts on what is known, and catches nothing later)
  if s.begin <= s.stop then
    s.at = s.stop > now and s.stop or now
    local list, absorbed = remembered[s.field], false
    for _, o in ipairs(list) do if absorbs(o, s) then absorbed = true; break end end
    if not absorbed then
      local k = 1
      while k <= #list do
        local o = list[k]
        if absorbs(s, o) then table.remove(list, k)
        elseif unites(o, s) then
          if o.begin < s.begin then s.begin = o.begin end
          if o.stop > s.stop then s.stop = o.stop end
          if o.at > s.at then s.at = o.at end
          table.remove(list, k)
          k = 1
        else k = k + 1 end
      end
      list[#list+1] = s
      dirty[s.field] = list
      if s.stop >= clear then clear = s.stop + 1 end
      if not span_end or s.at < span_end then span_end = s.at end
    end
  end
end
for field, list in pairs(dirty) do
  local before = #unpack_spans(has_spans and call('HGET', ks, field))
  span_count = span_count + #list - before
  if #list > max_prefix_spans and #list > before then return {'tombs', 'prefix', #list} end
end
if span_count > max_spans and span_count > spans_before then return {'tombs', 'intervals', span_count} end

-- ---- has it an effect?
local effective = #born + #dead + #gone + #hidden > 0 or (kind ~= 'u' and kind ~= 'k')
-- a rehearsal ends here: nothing was written
if options >= 64 then
  local created_ids, dismissed_ids = {}, {}
  for i = 1, #born do created_ids[i] = born[i].id end
  for i = 1, #gone do dismissed_ids[i] = gone[i].id end
  for i = 1, #hidden do if not hidden[i].why then dismissed_ids[#dismissed_ids+1] = hidden[i].id end end
  return {effective and 'ok' or 'same', epoch, seq, created_ids, dismissed_ids, ignored, ''}
end
local before_a, before_b = A, B
if effective then seq = seq + 1 end
if kind == 'f' then
  local e1, e2, e3 = string.byte(epoch, 1, 3)
  local v = (e1 * 65536 + e2 * 256 + e3 + 1) % 16777216
  epoch = pack('>I3', v == 0 and 1 or v)
  gen = generation
end

-- ---- digests: sums over what every device sees, and for each device what it sees else
local sums = {}
local function add(view, leaf, sign)
  local t = sums[view]
  if not t then t = {0, 0, 0, 0, 0, 0, 0, 0}; sums[view] = t end
  local a, b, c, d, e, f, g, h = upk(LANES, leaf)
  t[1] = t[1] + sign * a; t[2] = t[2] + sign * b; t[3] = t[3] + sign * c; t[4] = t[4] + sign * d
  t[5] = t[5] + sign * e; t[6] = t[6] + sign * f; t[7] = t[7] + sign * g; t[8] = t[8] + sign * h
end
local function count(t, sign)
  if t.dev == '' or t.dev == '*' then
    add('.h', t.leaf, sign)
    for d in pairs(t.hides) do add('.d:' .. d, t.leaf, -sign) end
  else
    add('.d:' .. t.dev, t.leaf, sign)
    add('.d:', t.leaf, sign)
  end
end

-- ---- what is written
local set, live, out, entries, live_gone, due_gone = {}, {}, {}, {}, {}, {}
local first_due
local function due(at, member)
  entries[#entries+1] = at; entries[#entries+1] = member
  if not first_due or at < first_due then first_due = at end
  if string.find('xmeg', sub(member, 1, 1), 1, true) and (wake == 0 or at < wake) then wake = at end
end
local function put(key, value) set[#set+1] = key; set[#set+1] = value end
local hiding_now = pack('>I5I7', seq, now)
local function with_hides(t)
  local h = ''
  for d, s in pairs(t.hides) do h = h .. pack('>Bc0', #d, d) .. (#s == 1 and hiding_now .. s or s) end
  if h == '' and t.hlen == 0 then return t.raw end
  return sub(t.raw, 1, 15) .. pack('>I2', #h) .. sub(t.raw, 18, t.hides_at - 1) .. h .. sub(t.raw, t.body_at)
end
for i = 1, #born do
  local t = born[i]
  put(t.id, with_hides(t))
  live[#live+1] = seq; live[#live+1] = t.id .. '\0' .. t.category
  count(t, 1)
  if t.expires < NEVER then due(t.expires, 'x' .. t.id) end
  local next_reminder
  for j = t.nrem, 1, -1 do
    local at = upk('>I7', t.raw, t.rem_at + 7 * (j - 1))
    if at < t.expires then
      next_reminder = at
      if at <= now then break end
    end
  end
  if next_reminder then due(next_reminder, 'r' .. t.id) end
  for o = 1, #(t.timers or ''), 8 do
    local what, at = upk('>c1I7', t.timers, o)
    if what ~= 'w' then due(at, what .. t.id)
    else
      local window = 'w' .. t.category .. '\0' .. t.dev
      if not call('ZSCORE', ka, window) then due(at, window) end
    end
  end
  if t.was_tomb then call('ZREM', ko, t.id) end
end
for i = 1, #dead do
  local t = dead[i]
  put(t.id, pack('>c1I5I5I7c1Bc0', 'G', seq, seq, now, t.why, #t.who, t.who) .. with_hides(t))
  out[#out+1] = seq; out[#out+1] = t.id
end
if #gone > 0 then
  for i = 1, #gone do live_gone[i] = gone[i].id .. '\0' .. gone[i].category end
  local scores = fetch('ZMSCORE', kn, live_gone)
  for i = 1, #gone do
    local t = gone[i]
    count(t, -1)
    put(t.id, pack('>c1I5I5I7c1Bc0', 'G', seq, tonumber(scores[i]), now, t.why, #by, by) .. with_hides(t))
    out[#out+1] = seq; out[#out+1] = t.id
    if t.expires < NEVER then due_gone[#due_gone+1] = 'x' .. t.id end
    if t.nrem > 0 then due_gone[#due_gone+1] = 'r' .. t.id end
    if t.timed then due_gone[#due_gone+1] = 'p' .. t.id; due_gone[#due_gone+1] = 'q' .. t.id end
    -- what was told of it is to be taken back
    if t.timed or watched then due(now, 'z' .. t.id) end
  end
end
local hid = 0
for i = 1, #hidden do
  local t = hidden[i]
  if not t.why then
    hid = hid + 1; hidden[hid] = t
    t.hides[by] = t.hiding
    put(t.id, with_hides(t))
    out[#out+1] = seq; out[#out+1] = t.id .. '\0' .. by
    add('.d:' .. by, t.leaf, -1)
    if watched then due(now, 'y' .. t.id .. '\0' .. by) end
  end
end
for i = hid + 1, #hidden do hidden[i] = nil end
for i = 1, #unhidden do
  local t = unhidden[i]
  put(t.id, with_hides(t))
  add('.d:' .. leaving, t.leaf, 1)
  call('ZREM', ko, t.id .. '\0' .. leaving)
end
for i = 1, #tombs do
  put(tombs[i], tombs[tombs[i]])
  out[#out+1] = seq; out[#out+1] = tombs[i]
end
if reminded then
  local at = remind_index + 1 < reminded.nrem and upk('>I7', reminded.raw, reminded.rem_at + 7 * (remind_index + 1))
  if at and at < reminded.expires then due(at, 'r' .. reminded.id)
  else due_gone[#due_gone+1] = 'r' .. reminded.id end
  -- whoever dies between this commit and the hand-over of its pushes leaves them to the next scheduler
  if options % 32 >= 16 then
    due(now, 'n' .. reminded.id .. '\0' .. remind_index .. '\0' .. seq)
    -- from now on it is timed: somebody may be told of it
    local raw = reminded.raw
    if not reminded.timed then put(reminded.id, sub(raw, 1, 19) .. string.char(upk('B', raw, 20) + 32) .. sub(raw, 21)) end
  end
end
if remember then put('\0' .. mid, mid_content); due(mid_keep, 'm' .. mid) end

-- ---- an external message is kept beside the state, within its bounds (L13)
local fields = {}
if kind == 'e' then
  local kx, system, body = KEYS[8], ARGV[rest], ARGV[rest + 1]
  call('ZADD', kx, seq, pack('>I5I7Bc0', seq, now, #system, system) .. body)
  external_bytes = external_bytes + #system + #body
  while call('ZCARD', kx) > max_external or external_bytes > max_external_bytes do
    local oldest = call('ZRANGE', kx, 0, 0)[1]
    if not oldest then break end
    call('ZREM', kx, oldest)
    external_bytes = external_bytes - (#oldest - 13)
    external_floor = upk('>I5', oldest)
  end
  if call('ZCARD', kx) == 1 then due(now + external_age, 'e') end
end

local changed = effective or #set > 0 or next(dirty) ~= nil or options % 4 >= 2
if not changed then return {'same', epoch, seq, {}, {}, ignored, ''} end
if #gone + #dead + #tombs > 0 or span_end then
  local at = now + (body_age < retention and body_age or retention)
  if span_end and span_end + retention < at then at = span_end + retention end
  if flags % 4 < 2 or not call('ZSCORE', ka, 'g') or tonumber(call('ZSCORE', ka, 'g')) > at then
    due(at, 'g')
    if flags % 4 < 2 then flags = flags + 2 end
  end
end
many('HSET', kh, set, 2000)
many('ZREM', kn, live_gone, 2000)
many('ZADD', kn, live, 2000)
many('ZADD', ko, out, 2000)
many('ZREM', ka, due_gone, 2000)
many('ZADD', ka, entries, 2000)
if first_due then call('ZADD', kd, 'LT', first_due, sub(kh, #kd)) end

-- ---- head
for view, t in pairs(sums) do
  local old = view == '.h' and pack(LANES, A, B, C, D, E, F, G, H) or call('HGET', kh, view) or NO_COUNTS
  local a, b, c, d, e, f, g, h = upk(LANES, old)
  a, b, c, d = (a + t[1]) % M, (b + t[2]) % M, (c + t[3]) % M, (d + t[4]) % M
  e, f, g, h = (e + t[5]) % M, (f + t[6]) % M, (g + t[7]) % M, (h + t[8]) % M
  if view == '.h' then A, B, C, D, E, F, G, H = a, b, c, d, e, f, g, h
  else
    local v = pack(LANES, a, b, c, d, e, f, g, h)
    if v == NO_COUNTS then call('HDEL', kh, view) else fields[#fields+1] = view; fields[#fields+1] = v end
  end
end
for field, list in pairs(dirty) do
  local parts = {}
  for i, s in ipairs(list) do
    local skips, k = {}, 0
    for id in pairs(s.skip) do k = k + 1; skips[k] = pack('>Bc0', #id, id) end
    parts[i] = pack('>BBc0I7I7I7I2', s.open and 1 or 0, #s.by, s.by, s.begin, s.stop, s.at, k) .. concat(skips)
  end
  call('HSET', ks, field, concat(parts))
  if flags % 2 == 0 then flags = flags + 1 end
end
if leaving then
  fields[#fields+1] = '.f:' .. leaving; fields[#fields+1] = seq
  call('HDEL', KEYS[9], leaving)
end
local counts = pack(COUNTS, horizon, floor, trimmed_to, external_floor, external_bytes, tomb_count, span_count)
if counts ~= raw_counts then fields[#fields+1] = '.c'; fields[#fields+1] = counts end
n, bytes = n + d_count, bytes + d_bytes
if options % 4 >= 2 then
  -- what was due is committed: the next moment of housekeeping is the first entry that is no reminder
  wake = 0
  local at = 0
  while wake == 0 do
    local page = call('ZRANGE', ka, at, at + 63, 'WITHSCORES')
    if #page == 0 then break end
    for j = 1, #page, 2 do
      if string.find('xmeg', sub(page[j], 1, 1), 1, true) then wake = tonumber(page[j+1]); break end
    end
    at = at + 64
  end
end
fields[#fields+1] = '.h'
fields[#fields+1] = pack(HEAD, epoch, seq, clear, wake, n, bytes, flags, gen, A, B, C, D, E, F, G, H)
many('HSET', kh, fields, 2000)

-- ---- receipt and announcement
local created_ids, dismissed_ids = {}, {}
for i = 1, #born do created_ids[i] = born[i].id end
for i = 1, #gone do dismissed_ids[i] = gone[i].id end
for i = 1, #hidden do dismissed_ids[#dismissed_ids+1] = hidden[i].id end
if effective then
  local function listed(kind_of_scope, devices)
    local names, s = {}, ''
    for d in pairs(devices) do names[#names+1] = d end
    table.sort(names)
    for i = 1, #names do s = s .. pack('>Bc0', #names[i], names[i]) end
    return #names == 0 and '\0' or pack('>BB', kind_of_scope, #names) .. s
  end
  local function scope(t)
    if t.dev == '' then return '\0' end
    if t.dev == '*' then return listed(2, t.hides) end
    return listed(1, {[t.dev] = true, [''] = true})  -- '': the backend's view, of onlookers, holds it too
  end
  local parts = {}
  for i = 1, #born do
    local t = born[i]
    parts[i] = '+' .. scope(t) .. pack('>Bc0I3', #t.id, t.id, #t.raw) .. t.raw
  end
  for i = 1, #gone do
    local t = gone[i]
    parts[#parts+1] = '-' .. scope(t) .. pack('>Bc0I3', #t.id, t.id, #t.category) .. t.category
  end
  for i = 1, #hidden do
    local t = hidden[i]
    parts[#parts+1] = '-' .. listed(1, {[by] = true}) .. pack('>Bc0I3', #t.id, t.id, #t.category) .. t.category
  end
  local tail
  if kind == 'e' then tail = pack('>Bc0', #ARGV[rest], ARGV[rest]) .. ARGV[rest + 1]
  elseif kind == 'f' then tail = pack('>I2', spread)
  elseif reminded then
    tail = scope(reminded) .. pack('>Bc0Bc0I7', #reminded.id, reminded.id, #reminded.category, reminded.category, reminded.at)
  else tail = pack('>I2', #parts) .. concat(parts) end
  call('SPUBLISH', kh, pack('>c1c3I5c1BI4I4I4I4c1Bc0', 'C', epoch, seq, (kind == 'd' or kind == 'k') and 'u' or kind,
    is_new, before_a, before_b, A, B, leaving and 'p' or reason, #by, by) .. tail)
end
local hint, total = '', #out > 0 and call('ZCARD', ko) or 0
if total > max_bodies and total % 64 < #out / 2 then hint = 'h' end
return {effective and 'ok' or 'same', epoch, seq, created_ids, dismissed_ids, ignored, hint}
