-- One order, whole or not at all. Redis runs a script alone, so nothing else happens between its lines.
--
-- KEYS[1] is the idempotency key, the others are the SKUs, descending and none twice.
-- ARGV[1] is the account, the others are the quantities, one per SKU.
-- Answers the order's number, or an error: then nothing was written.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.error_reply('REPEATED the key was used before')
end
local lines = {}
for at = 2, #KEYS do
  -- As text: what is checked here is only that none comes twice.
  if at > 2 and KEYS[at] == KEYS[at - 1] then
    return redis.error_reply('TWICE one line per SKU')
  end
  local available = tonumber(redis.call('HGET', KEYS[at], 'available'))
  if not available or available < tonumber(ARGV[at]) then
    return redis.error_reply('SHORT not enough of ' .. KEYS[at])
  end
  lines[at - 1] = KEYS[at] .. ' ' .. ARGV[at] .. ' 100'
end
for at = 2, #KEYS do
  redis.call('HINCRBY', KEYS[at], 'available', '-' .. ARGV[at])
  redis.call('HINCRBY', KEYS[at], 'reserved', ARGV[at])
end
local order = redis.call('INCR', 'orders')
redis.call('HSET', 'order:' .. order, 'account', ARGV[1], 'status', 'CREATED', 'key', KEYS[1],
  'lines', table.concat(lines, ','), 'total', 100 * #lines)
redis.call('SET', KEYS[1], order)
redis.call('XADD', 'feed', '*', 'placed', order)
return order
