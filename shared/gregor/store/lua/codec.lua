-- Part of every script: layouts of what is kept, and the packing where the server has none (fakeredis lacks `struct`).
--
-- state   one hash a user; a name that begins with no letter or digit is no item's:
--   .h           the head: epoch c3, seq I5, clear I7 µs, wake I7 µs, live count I2, live bytes I3, flags B (1 intervals are
--                remembered, 2 something is to be forgotten in time), generation I2, 8 digest lanes I4: 62 bytes.
--                clear: what is created from here on is caught by no interval, and is not stale; wake: 0 none
--   .c           counts, where any is not 0: horizon + 1 I7 µs, floor of deltas I5, bodies trimmed up to seq I5, floor of external
--                messages I5, their bytes I4, unknown ids I4, remembered intervals I2
--   .d:<device>  8 lanes to add for a device whose view differs; of the device "": for the backend
--   .f:<device>  the seq at which a device was forgotten
--   \0<key>      a message id: the hash of its content
--   <id>         a record: live, gone or tomb
-- live    a packed item (core/packed.py): "L" created I7, expires I7 (NEVER), hidings length I2, bytes of JSON beside the
--         body I2, reminders B (count; +32 push timer, or one of its reminders was followed, +64 mail timer, +128
--         stamped by the server), category length B, device length B, fingerprint c8, 8 leaf lanes I4 (62 bytes so far), category, device, reminders I7 each, hidings
--         (device str8, seq I5, at I7, reason c1 each), the JSON of the body
-- gone    "G" gone seq I5, created seq I5, at I7, reason c1, by str8, then the live record; once its body was dropped, that
--         begins with "l" and has no leaf
-- tomb    "T" then for each sender: at I7, by str8, category limits str16 ("" none; prefixes joined by ",")
-- spans   one hash a user, one field a prefix (s:) or category (s=). Each: open B, by str8, begin I7, end I7, at I7
--         (accepted, or its end where that is later), skips I2, skip str8 each
-- agenda  housekeeping, done by whoever meets it: x<id> expiry, m<key> message id, e external messages, g garbage; the
--         scheduler's: r<id> the next reminder, n<id>\0<index>\0<seq> what follows one, p<id> push, q<id> mail,
--         z<id> it left: what was told of it, o<id> its deliveries should be over, w<category>\0<for_device> aggregation window, d<id> delayed message, v look for dead devices; score µs
local struct = struct or (function()
  local byte, char, sub, floor = string.byte, string.char, string.sub, math.floor
  local function tokens(format)
    local t = {}
    for kind, size in string.gmatch(format, '([Ic B])(%d*)') do t[#t+1] = {kind, tonumber(size) or 0} end
    return t
  end
  local function pack(format, ...)
    local args, at, out = {...}, 1, {}
    for _, token in ipairs(tokens(format)) do
      local kind, size, v = token[1], token[2], args[at]
      at = at + 1
      if kind == 'c' then out[#out+1] = size == 0 and v or sub(v .. string.rep('\0', size), 1, size)
      else
        local n, s = kind == 'B' and 1 or size, ''
        for _ = 1, n do s = char(v % 256) .. s; v = floor(v / 256) end
        out[#out+1] = s
      end
    end
    return table.concat(out)
  end
  local function unpack_(format, s, o)
    local out = {}
    o = o or 1
    for _, token in ipairs(tokens(format)) do
      local kind, size = token[1], token[2]
      if kind == 'c' then
        if size == 0 then size = out[#out]; out[#out] = nil end
        out[#out+1] = sub(s, o, o + size - 1); o = o + size
      else
        local n, v = kind == 'B' and 1 or size, 0
        for i = 0, n - 1 do v = v * 256 + byte(s, o + i) end
        out[#out+1] = v; o = o + n
      end
    end
    out[#out+1] = o
    return unpack(out)
  end
  return {pack = pack, unpack = unpack_}
end)()
local call, pack, upk, sub = redis.call, struct.pack, struct.unpack, string.sub
local HEAD = '>c3I5I7I7I2I3BI2I4I4I4I4I4I4I4I4'
local ITEM = '>I7I7I2I2BBBc8I4I4I4I4I4I4I4I4'  -- from byte 2 of a live record
local COUNTS, NO_COUNTS = '>I7I5I5I5I4I4I2', '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local LANES, NEVER = '>I4I4I4I4I4I4I4I4', 9007199254740992
local M = 4294967296
local _
