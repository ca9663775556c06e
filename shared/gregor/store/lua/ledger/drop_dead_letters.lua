-- drop_dead_letters: Remove dead letters of a partition from the list.
-- KEYS    1 dead letters
-- ARGV    1 those before µs  2 prefix of their names ("": any)  3 suffix of their names ("": any)
-- Returns the number removed.
-- Cost    O(those before)
local dead_letters_key = KEYS[1]
local before, prefix, suffix = ARGV[1], ARGV[2], ARGV[3]
local call, sub, dropped = redis.call, string.sub, 0
for _, name in ipairs(call('ZRANGEBYSCORE', dead_letters_key, '-inf', before)) do
  if sub(name, 1, #prefix) == prefix and (suffix == '' or sub(name, -#suffix) == suffix) then
    dropped = dropped + call('ZREM', dead_letters_key, name)
  end
end
return dropped
