-- codec: The part that every script on a user's state begins with: the layouts of stored values, and a struct library for
-- servers without one (fakeredis). Python reads and writes the same layouts in `gregor/store/redis/users/record_codec.py`;
-- tests/unit/store/test_lua_codes.py compares the letter codes below with those of Python.
--
-- formats The first byte of a head and of a record names its format (gregor/core/formats.py). The head's format is also that
--         of the user's counts, lanes, intervals and external messages: every script that reads them reads the head first.
-- state   A hash for each user. A field that begins with a letter or digit is an item id; the others are:
--   .h           head: "H", epoch c3, seq I5, clear_from I7 µs (no remembered interval matches an item created later,
--                and such an item is not stale), housekeeping_at I7 µs (0: never; before it, no agenda entry of
--                HOUSEKEEPING_KINDS is due), live items I2, live bytes I3, flags B (1 intervals are remembered, 2 `collect` is
--                scheduled before the next body becomes too old), generation I2, 8 digest lanes I4: 63 bytes
--   .c           counts, if any is not 0: horizon + 1 I7 µs, lowest cursor for deltas I5, bodies trimmed up to seq I5, lowest
--                cursor for external messages I5, their bytes I4, unknown ids I4, remembered intervals I2, their skipped
--                ids I4, message ids I4, dismissals by single devices I4, hidings of gone items that began with their item
--                I4 (the last four are missing in values of older versions)
--   .d:<device>  8 lanes: the difference of this device's view from the shared digest; device "" is the backend's view
--   .f:<device>  the seq at which a device was removed
--   \0<key>      a message id: the hash of its content
--   <id>         a record: live, gone or tombstone
-- live    A packed item (core/items/codec.py): "L", created I7, expires I7 (NEVER), length of hidings I2, bytes of JSON
--         beside the body I2, reminders B (count; +32 has timers or followed a reminder, +64 mail timer, +128 stamped by the
--         server), length of category B, of device B, fingerprint c8, 8 leaf lanes I4 (62 bytes so far), category, device,
--         reminders I7 each, hidings (device str8, seq I5, at I7, cause c1 each), JSON of the body
-- gone    "G", gone seq I5, created seq I5, at I7, cause c1, sender str8, then the live record. A record whose body was
--         trimmed begins with "l" and has no leaf.
-- tomb    "T", then for each sender that dismissed the unknown id: at I7, sender str8, category filter str16 ("" none)
-- intervals  A hash for each user, one field for each prefix (s:) or category (s=). Each interval: open B, sender str8, begin
--         I7, end I7, at I7 (accepted, or its end if that is later), number of skipped ids I2, skipped ids str8
--         each, sorted
-- agenda  A sorted set for each user, by µs. Each member begins with the letter of its kind:
--   x EXPIRE <id>                   g COLLECT history           m COLLECT <message id>       e COLLECT external messages
--   r REMIND <id>, the next one     n FOLLOW <id>\0<index>\0<seq>, work after a reminder
--   p PUSH <id>                     q MAIL <id>                 w WINDOW <category>\0<for_device>, aggregation
--   z LEFT <id>, withdraw its notifications                     y HIDDEN <id>\0<device>
--   o OVERDUE <id>, check its deliveries                        f SETTLED <id>\0<delivery>, webhook event
--   d DELAYED <message id>          k ACKED device\0filter\0from\0to, webhook event            v DEVICES, inactive ones
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
local call, pack, unpack_struct, sub = redis.call, struct.pack, struct.unpack, string.sub
local HEAD_FORMAT = '>c1c3I5I7I7I2I3BI2I4I4I4I4I4I4I4I4'  -- to pack a head, which begins with "H"
local HEAD_FIELDS = '>c3I5I7I7I2I3BI2I4I4I4I4I4I4I4I4'  -- of a head, from its byte 2
local ITEM_FORMAT = '>I7I7I2I2BBBc8I4I4I4I4I4I4I4I4'  -- of a live record, from its byte 2
local COUNTS_FORMAT, ZEROS = '>I7I5I5I5I4I4I2I4I4I4I4', '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local COLLECTED_FORMAT = '>I5I3I4I4'  -- after the counts: the memory of `collect`, which explains it
local LANES_FORMAT, NEVER = '>I4I4I4I4I4I4I4I4', 9007199254740992
local NO_COUNTS = ZEROS .. '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local MAX_HIDINGS = 255  -- core/limits.py has the same
local ENTRIES_OF_AN_ITEM = 10  -- core/limits.py has the same
local LANE_MODULUS = 4294967296
local HOUSEKEEPING_KINDS = 'xmeg'  -- agenda kinds that the store handles itself; the scheduler handles the others
-- Names that a script reads without `collectgarbage`, which frees the strings of earlier scripts. Redis keeps the strings
-- of all scripts in one table, and hashes them without a seed. Names that a device chose can have one hash: each is then
-- compared with all others in the table. Freeing takes 0.03 ms, and 0.07 ms for each 1,000 names.
local FEW_NAMES = 250
local may_add = true  -- false in the script that runs at maxmemory
local _
