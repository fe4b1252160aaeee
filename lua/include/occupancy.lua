--[[
  The number of subscriptions of a channel, from the absolute numbers of all nodes.
  Shared by the two scripts that write memberships.

  A channel's subs (hash) has a field for each node, named by its incarnation (16
  characters), and total, users (on presence channels), rules (the app settings
  that these scripts use: the event types of its webhooks as a bit set, and a bit
  each for count entries and status entries), and fields that other scripts add.
]]
local NODE_CHARS = 16
local SENDS_COUNTS, SENDS_STATUS = 1, 2

-- `replaced` is the previous incarnation of the node, or ''. Its number was the node's own.
local function read_occupancy(subs_key, node, replaced, rules)
  local subs = redis.call('HGETALL', subs_key)
  local occupancy = { subs_key = subs_key, node = node, replaced = replaced, before = 0, others = 0, fields = {} }
  for i = 1, #subs, 2 do
    local field, value = subs[i], subs[i + 1]
    if field == node or field == replaced then
      occupancy.before = occupancy.before + tonumber(value)
    elseif #field == NODE_CHARS then
      occupancy.others = occupancy.others + tonumber(value)
    else
      occupancy.fields[field] = value
    end
  end
  occupancy.total_before = tonumber(occupancy.fields.total or 0)
  -- A sweep of a dead node does not have the app's rules.
  occupancy.rules = rules ~= '' and rules or occupancy.fields.rules or '0 0'
  local hooked, sends = string.match(occupancy.rules, '^(%d+) (%d+)$')
  occupancy.hooked, occupancy.sends = tonumber(hooked), tonumber(sends)
  return occupancy
end

-- Whether the update was sent before the sweep of its node. Sweeps have no rules.
local function was_swept(swept_key, rules)
  return redis.call('GET', swept_key) and rules ~= ''
end

-- Whether the update would occupy one channel more than the app may have in this
-- partition. A limit of 0 permits every update.
local function is_over_limit(occupancy, count, occupied_key, occupied_max)
  local occupied = redis.call('ZCARD', occupied_key)
  return occupied_max > 0 and occupancy.total_before == 0 and count > 0 and occupied >= occupied_max
end

local function write_occupancy(occupancy, count, users, channels_key, channel_id)
  local subs_key, node = occupancy.subs_key, occupancy.node
  occupancy.total = occupancy.others + count
  if count <= occupancy.before then
    -- Leaving must work when Redis' memory is full: Redis does not refuse a
    -- deletion, nor the writes that follow it in a script.
    redis.call('HDEL', subs_key, node)
  end
  if occupancy.replaced ~= '' then
    redis.call('HDEL', subs_key, occupancy.replaced)
  end
  if occupancy.total == 0 then
    redis.call('DEL', subs_key)
  else
    redis.call('HSET', subs_key, 'total', occupancy.total, 'users', users, 'rules', occupancy.rules)
  end
  if count > 0 then
    redis.call('HSET', subs_key, node, count)
    redis.call('SADD', channels_key, channel_id)
  else
    redis.call('SREM', channels_key, channel_id)
  end
end

--[[
  Update the index of an app's occupied channels, and append the webhook events of
  the transition. A vacated channel is reported after the grace period.
]]
local function write_index(occupancy, users, index, webhooks, grace_ms)
  local channel = string.match(webhooks.channel_id, ':(.*)$')
  local was_occupied, is_occupied = occupancy.total_before > 0, occupancy.total > 0
  if is_occupied then
    redis.call('ZADD', index.occupied_key, 0, channel)
    redis.call('HSET', index.counts_key, channel, occupancy.total .. ' ' .. users)
  else
    redis.call('HDEL', index.counts_key, channel)
  end
  if was_occupied == is_occupied then
    return
  end
  local due = 'vacated ' .. webhooks.channel_id
  if is_occupied then
    local has_returned = redis.call('ZREM', webhooks.due_key, due) == 1
    if not has_returned and is_hooked(occupancy.hooked, 'channel_occupied') then
      notify(webhooks, 'channel_occupied')
    end
  else
    redis.call('ZREM', index.occupied_key, channel)
    if is_hooked(occupancy.hooked, 'channel_vacated') then
      schedule(webhooks, now_ms + grace_ms, due)
    end
  end
end

--[[
  Read the last event of a cache channel for a new subscriber: the event, its
  sequence number, its time (ms) and the ms until it expires; or nothing, and a
  webhook event for the first cache miss.
]]
local function read_last(channel, occupancy, webhooks)
  local last = redis.call('HMGET', channel.head_key, 'last', 'last_seq', 'last_at')
  if last[1] and channel.last_until > now_ms then
    last[4] = number(channel.last_until - now_ms)
    return last
  end
  -- Reported again only after another event: other entries are not cached.
  local missed = last[2] or ''
  local is_reported = occupancy.total == 0 or occupancy.fields.missed == missed
  if is_hooked(occupancy.hooked, 'cache_miss') and not is_reported then
    redis.call('HSET', occupancy.subs_key, 'missed', missed)
    notify(webhooks, 'cache_miss')
  end
  return {}
end
