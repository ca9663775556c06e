-- drop_dead_letters: Remove dead letters of a partition from the list, the oldest first. After dead_letter_rank.
-- KEYS    1 dead letters
-- ARGV    1 those before µs, as a bound of ZCOUNT  2 prefix of their names ("": any)  3 suffix of their names ("": any)
--         4 the most entries to examine  5 not before µs  6 of that µs, no names below this one
-- Returns the numbers removed and examined; name and time µs of the entry from which the next call continues ("": none).
-- Cost    O((log n)² + examined + removed * log n)
local dead_letters_key = KEYS[1]
local before, prefix, suffix, most_examined, from_at, from_name = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5],
  ARGV[6]
local sub, matching, removed = string.sub, {}, 0
if most_examined > FEW_NAMES then collectgarbage() end
local first = dead_letter_rank(dead_letters_key, from_at, from_name)
local left = call('ZCOUNT', dead_letters_key, '-inf', before) - first
if left <= 0 then return {0, 0, '', ''} end
local examined = math.min(left, most_examined)
-- with the entry after them
local entries = call('ZRANGE', dead_letters_key, first, first + examined, 'WITHSCORES')
for i = 1, 2 * examined, 2 do
  local name = entries[i]
  if sub(name, 1, #prefix) == prefix and (suffix == '' or sub(name, -#suffix) == suffix) then
    matching[#matching+1] = name
  end
end
if #matching > 0 then removed = call('ZREM', dead_letters_key, unpack(matching)) end
if left == examined then return {removed, examined, '', ''} end
return {removed, examined, entries[2*examined+1], entries[2*examined+2]}
