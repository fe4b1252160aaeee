--[[
  Write how many subscriptions a node has to a channel: the number itself, not a
  difference, so that saying it again changes nothing, and a lost or repeated
  call heals by the next. The total is computed anew from all nodes' numbers.

  With a count of 0 a dead node's membership is swept by the same script.

  KEYS[1]  head      of the channel (hash), only read
  KEYS[2]  subs      of the channel (hash): node -> subscriptions, and `total`
  KEYS[3]  channels  of the node in this partition (set): where to sweep

  ARGV[1]  node      incarnation
  ARGV[2]  count     its subscriptions
  ARGV[3]  address   of the channel, as the set holds it

  Returns  epoch, seq, id and time of the head (nil if there is none), the total.
  Errors   none of its own.
]]
local head_key, subs_key, channels_key = KEYS[1], KEYS[2], KEYS[3]
local node, count, address = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local head = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time')
local subs = redis.call('HGETALL', subs_key)
redis.call('SCARD', channels_key)

local total, before = count, 0
for i = 1, #subs, 2 do
  if subs[i] == node then
    before = tonumber(subs[i + 1])
  elseif subs[i] ~= 'total' then
    total = total + tonumber(subs[i + 1])
  end
end

if count > 0 then
  if count <= before then
    -- Leaving must work when Redis' memory is full: a deletion is not refused,
    -- and nor is what follows it.
    redis.call('HDEL', subs_key, node)
  end
  redis.call('SADD', channels_key, address)
  redis.call('HSET', subs_key, node, count, 'total', total)
elseif total > 0 then
  redis.call('HDEL', subs_key, node)
  redis.call('HSET', subs_key, 'total', total)
  redis.call('SREM', channels_key, address)
else
  redis.call('DEL', subs_key)
  redis.call('SREM', channels_key, address)
end

head[5] = total
return head
