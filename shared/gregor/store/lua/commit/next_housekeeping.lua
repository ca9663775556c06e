-- next_housekeeping: The part of scripts that write the head after due work.
-- Return the time of the next work of the store: that of the first agenda entry of a housekeeping kind, 0 without one. If none
-- of the examined entries is of these kinds, return the time of the last of them: a commit at that time searches again. Reading
-- a whole agenda of 9,000 entries took 9 ms for each item that expired.
local function next_housekeeping(agenda_key, now)
  local MOST_EXAMINED, AGENDA_PAGE = 256, 64
  local from, at = 0, 0
  repeat
    local page = call('ZRANGE', agenda_key, from, from + AGENDA_PAGE - 1, 'WITHSCORES')
    for j = 1, #page, 2 do
      at = tonumber(page[j+1])
      if string.find(HOUSEKEEPING_KINDS, sub(page[j], 1, 1), 1, true) then return at end
    end
    from = from + AGENDA_PAGE
    if #page < 2 * AGENDA_PAGE then return 0 end
  -- due entries wait for the scheduler: if the time of one of them were returned, the same commit would be due again
  until from >= MOST_EXAMINED and at > now
  return at
end
