--[[
  Check a due transition, and report it if it still holds: a channel that is still
  vacated, a member that has not returned, a count that has changed since the last
  count entry.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  subs      of the channel (hash)
  KEYS[4]  users     of the channel (hash)
  KEYS[5]  outbox    of the partition (stream)
  KEYS[6]  due       of the partition (sorted set)
  KEYS[7]  consumer  of the outbox (hash)

  ARGV[1..6]       as in include/append.lua
  ARGV[7]  transition  member of the sorted set: `vacated <channel_id>`,
                   `count <channel_id>` or `removed <channel_id> <user>`
  ARGV[8]  outbox_max

  Returns  nothing.
  Errors   none of its own.
]]
local transition, outbox_max = ARGV[7], ARGV[8]
local subs_key, users_key, outbox_key, due_key, consumer_key = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]

local channel = read_channel(KEYS[1], KEYS[2])
check_outbox(outbox_key, consumer_key)
redis.call('HLEN', users_key)
local fields = redis.call('HMGET', subs_key, 'total', 'rules')
local total = tonumber(fields[1] or 0)
if redis.call('ZREM', due_key, transition) == 0 then
  return
end
local kind, rest = string.match(transition, '^(%S+) (.*)$')
if kind == 'vacated' then
  if total == 0 then
    notify(outbox_key, consumer_key, outbox_max, rest, 'channel_vacated')
  end
elseif kind == 'removed' then
  local channel_id, user = string.match(rest, '^(%S+) (.*)$')
  if redis.call('HEXISTS', users_key, user) == 0 then
    notify(outbox_key, consumer_key, outbox_max, channel_id, 'member_removed', 'user', user)
  end
elseif kind == 'count' and total > 0 then
  local hooked, sends = string.match(fields[2] or '0 0', '^(%d+) (%d+)$')
  redis.call('HSET', subs_key, 'told_at', number(now_ms))
  if bit.band(tonumber(sends), 1) ~= 0 then
    append_count(channel, total)
  end
  if is_hooked(tonumber(hooked), 'subscription_count') then
    notify(outbox_key, consumer_key, outbox_max, rest, 'subscription_count', 'count', total)
  end
end
publish_entry(channel)
