-- dead_letter_page: Return dead letters of a partition, the latest first. Read only. After dead_letter_rank.
-- KEYS    1 dead letters
-- ARGV    1 the most letters  2 not after µs  3 of that µs, only names below this one  4 not at or before µs
--         5 suffix of the names ("": all)  6 the most entries to examine
-- Returns the number of entries examined; name and time µs of the last of them ("": no other entry follows); name and
--         time µs of each letter.
-- Cost    O((log n)² + examined)
local dead_letters_key = KEYS[1]
local most, latest, below_name, oldest, suffix, most_examined = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5],
  tonumber(ARGV[6])
local sub, page, examined = string.sub, {0, '', ''}, 0
if most_examined > FEW_NAMES then collectgarbage() end
local first, last = call('ZCOUNT', dead_letters_key, '-inf', oldest), dead_letter_rank(dead_letters_key, latest,
  below_name) - 1
if last < first then return page end
local entries = call('ZRANGE', dead_letters_key, math.max(first, last - most_examined + 1), last, 'WITHSCORES')
for i = #entries - 1, 1, -2 do
  local name, at = entries[i], entries[i+1]
  examined = examined + 1
  if last - examined >= first then page[2], page[3] = name, at else page[2], page[3] = '', '' end
  if suffix == '' or sub(name, -#suffix) == suffix then
    page[#page+1] = name
    page[#page+1] = at
    if #page == 3 + 2 * most then break end
  end
end
page[1] = examined
return page
