-- plan: Enter deliveries that are not in the ledger yet; the first entry under a key wins. Nothing is entered for a
-- deleted user.
-- KEYS    1 deliveries of the item  2 items with deliveries, by time  3 withdrawals of the user  4 state  5 agenda
--         6 due users of the partition  7 items with webhook events, by time
-- ARGV    1 now µs  2 lifetime ms  3 item  4 state letter  5 when the agenda checks for overdue deliveries µs
--         6 items with deliveries above which the bounds apply  7 the same of items with webhook events
--         8 new items after which they apply again  9… key, story and category ("": unknown) of each delivery
-- Returns the new keys, then a mark for each bound that is due now: '' of items, '*' of items with events, '#' of the
--         events of this item.
--         A withdrawal is entered as cancelled if too many already wait.
-- Cost    O(keys); O(waiting withdrawals of the user) if 250 wait
local deliveries_key, delivered_items_key, withdrawals_key, state_key, agenda_key, due_key, event_items_key = KEYS[1],
  KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local now, lifetime_ms, item, state, check_at, most_items, most_with_events, step = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local call, new_keys, has_events = redis.call, {}, false
local MAX_WAITING_OF_DEVICE, MAX_WAITING_OF_USER, TOO_MANY_WAIT = 500, 2000, 'budget'
local EVENT_BOUND_FROM, EVENT_BOUND_STEP = 2048, 256
local waiting, waiting_of_user
-- return whether one more withdrawal may wait for a device and channel; place: /device/channel/
local function may_wait(place)
  if not waiting then
    waiting, waiting_of_user = {}, 0
    -- a withdrawal has up to two fields
    local is_checked = call('HLEN', withdrawals_key) >= MAX_WAITING_OF_DEVICE
    for _, field in ipairs(is_checked and call('HKEYS', withdrawals_key) or {}) do
      local field_place = string.sub(field, 1, 2) ~= 'c/' and string.match(field, '^%d+(/[^/]*/[^/]*/)')
      if field_place then
        waiting[field_place], waiting_of_user = (waiting[field_place] or 0) + 1, waiting_of_user + 1
      end
    end
  end
  if (waiting[place] or 0) >= MAX_WAITING_OF_DEVICE or waiting_of_user >= MAX_WAITING_OF_USER then return false end
  waiting[place], waiting_of_user = (waiting[place] or 0) + 1, waiting_of_user + 1
  return true
end
-- make the item the newest of a list; return whether the bound of the list is to be applied now
local function add_newest(list_key, most)
  local is_new_item = call('ZADD', list_key, now, item) == 1
  call('ZREMRANGEBYSCORE', list_key, '-inf', string.format('%.0f', tonumber(now) - tonumber(lifetime_ms) * 1000))
  call('PEXPIRE', list_key, lifetime_ms)
  local count = call('ZCARD', list_key)
  return is_new_item and count > most and count % step == 0
end
if call('EXISTS', state_key) == 0 then return new_keys end
local count_before = call('HLEN', deliveries_key)
for i = 9, #ARGV, 3 do
  local key, story, category = ARGV[i], ARGV[i+1], ARGV[i+2]
  -- an entry: state c1, attempts as 4 digits, lease until as 17 digits, story
  if call('HSETNX', deliveries_key, key, state .. '0000' .. '00000000000000000' .. story) == 1 then
    new_keys[#new_keys+1] = key
    has_events = has_events or string.sub(key, 1, 6) == 'event/'
    if state == 'p' and string.sub(key, 1, 9) == 'withdraw/' then
      local target = string.sub(key, 10) .. '/' .. item
      if may_wait(string.match(key, '^withdraw/%d+(/.*)$') .. '/') then
        -- n/device/channel/item: when it was planned; the same after c/: the category
        call('HSET', withdrawals_key, target, now)
        if category ~= '' then call('HSET', withdrawals_key, 'c/' .. target, category) end
        call('PEXPIRE', withdrawals_key, lifetime_ms)
      else
        story = '{"reason":"' .. TOO_MANY_WAIT .. '",' .. string.sub(story, 2)
        call('HSET', deliveries_key, key, 'x0000' .. '00000000000000000' .. story)
      end
    end
  end
end
if #new_keys > 0 then
  local count = count_before + #new_keys
  local is_item_bound_due = count >= EVENT_BOUND_FROM
    and math.floor(count / EVENT_BOUND_STEP) > math.floor(count_before / EVENT_BOUND_STEP)
  call('PEXPIRE', deliveries_key, lifetime_ms)
  local is_event_bound_due = has_events and add_newest(event_items_key, most_with_events)
  if add_newest(delivered_items_key, most_items) then new_keys[#new_keys+1] = '' end
  if is_event_bound_due then new_keys[#new_keys+1] = '*' end
  if is_item_bound_due then new_keys[#new_keys+1] = '#' end
  if state == 'p' and call('ZADD', agenda_key, 'NX', check_at, 'o' .. item) == 1 then
    -- the uid: the keys are "<prefix>h:<uid>" and "<prefix>due"
    call('ZADD', due_key, 'LT', check_at, string.sub(state_key, #due_key))
  end
end
return new_keys
