--[[
  Write a node's subscriptions to a presence channel, and the connections of its
  users: absolute numbers, as in update_subscriptions. A user's first connection
  in the cluster adds a member, the last one removes it; the script decides so and
  appends the member entry in the same step.

  With counts of 0 the same script sweeps a dead node's members.

  KEYS[1]  head      of the channel (hash)
  KEYS[2]  log       history of the channel (list)
  KEYS[3]  subs      of the channel (hash)
  KEYS[4]  channels  of the node in this partition (set): input of a sweep
  KEYS[5]  occupied  of the app in this partition (sorted set): channel names
  KEYS[6]  counts    of the app in this partition (hash): subscriptions and users
  KEYS[7]  outbox    of the app in this partition (stream)
  KEYS[8]  due       of the app in this partition (sorted set): transitions to check, by time
  KEYS[9]  apps      of this partition with webhook events (sorted set)
  KEYS[10] consumer  of the outboxes (hash)
  KEYS[11] swept     present if the memberships of the node were swept (string)
  KEYS[12] users     of the channel (hash): user -> "node count node count …",
                     a line break, and the user_info of the first connection

  ARGV[1..7]           as in include/append.lua
  ARGV[8]  node          incarnation
  ARGV[9]  replaced      as in update_subscriptions
  ARGV[10] count         subscriptions of the node
  ARGV[11] channel_id    of the channel, a member of the set
  ARGV[12] rules         as in include/occupancy.lua; '' keeps the stored rules
  ARGV[13] wants_last    '1' to read the last event of a cache channel
  ARGV[14] outbox_max
  ARGV[15] grace_ms      delay of the member_removed webhook
  ARGV[16] members_max   limit of users of the channel
  ARGV[17] occupied_max  as in update_subscriptions
  then for each user whose number may have changed, four:
    user    id
    count   its connections on this node
    is_new  '1' if all of them are pending, so that the limit may refuse them
    info    user_info, opaque

  Returns  the channel's position (epoch, seq, id, time), the total, the indexes
           of the refused users (from 0), the last event as include/occupancy.lua
           returns it, whether deltas are disabled (1 or 0), and whether the whole
           update is refused, as in update_subscriptions.
  Errors   SWEPT  the update was sent before the sweep of its node.
]]
local node, replaced, count, channel_id = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]
local rules, wants_last, grace_ms = ARGV[12], ARGV[13], tonumber(ARGV[15])
local members_max, occupied_max = tonumber(ARGV[16]), tonumber(ARGV[17])
local users_key, channels_key = KEYS[12], KEYS[4]
local index = { occupied_key = KEYS[5], counts_key = KEYS[6] }
local webhooks = {
  channel_id = channel_id,
  outbox_max = ARGV[14],
  outbox_key = KEYS[7],
  due_key = KEYS[8],
  apps_key = KEYS[9],
  consumer_key = KEYS[10],
}
local MEMBERS, ADDED, REMOVED = 3, 1, 2

-- The connections of a user on other nodes: the list of nodes, and their sum.
local function others_of(nodes)
  local others, connections = {}, 0
  for other, number_of in string.gmatch(nodes, '(%S+) (%d+)') do
    if other ~= node and other ~= replaced then
      others[#others + 1] = other .. ' ' .. number_of
      connections = connections + tonumber(number_of)
    end
  end
  return others, connections
end

-- Read and check everything, and decide.
local channel = read_channel(KEYS[1], KEYS[2])
local occupancy = read_occupancy(KEYS[3], node, replaced, rules)
if was_swept(KEYS[11], rules) then
  return redis.error_reply('SWEPT the memberships of this node were removed')
end
local members = redis.call('HLEN', users_key)
if rules == '' then
  -- Sweeps may run concurrently: a late one must not restore removed numbers.
  count = math.min(count, occupancy.before)
end
redis.call('SCARD', channels_key)
redis.call('HLEN', index.counts_key)
check_webhooks(webhooks)
if is_over_limit(occupancy, count, index.occupied_key, occupied_max) then
  return { position(channel), 0, {}, {}, 0, 1 }
end

local changed, added, removed, refused, body = {}, {}, {}, {}, {}
for at = 18, #ARGV, 4 do
  local user, connections, is_new, info = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local stored = redis.call('HGET', users_key, user)
  local nodes, stored_info = string.match(stored or '\n', '^([^\n]*)\n(.*)$')
  local others = others_of(nodes)
  if connections > 0 and not stored and is_new == '1' and members >= members_max then
    refused[#refused + 1] = (at - 18) / 4
    count = count - connections
  elseif connections > 0 then
    others[#others + 1] = node .. ' ' .. connections
    changed[#changed + 1] = user
    changed[#changed + 1] = table.concat(others, ' ') .. '\n' .. (stored and stored_info or info)
    if not stored then
      members = members + 1
      added[#added + 1] = user
      body[#body + 1] = struct.pack('>BI2', ADDED, #user) .. user .. struct.pack('>I4', #info) .. info
    end
  elseif #others > 0 then
    changed[#changed + 1] = user
    changed[#changed + 1] = table.concat(others, ' ') .. '\n' .. stored_info
  elseif stored then
    members = members - 1
    removed[#removed + 1] = user
    body[#body + 1] = struct.pack('>BI2', REMOVED, #user) .. user
  end
end

-- Write. Removals first: they must work when Redis' memory is full.
for _, user in ipairs(removed) do
  redis.call('HDEL', users_key, user)
end
write_occupancy(occupancy, count, members, channels_key, channel_id)
for i = 1, #changed, 2 do
  redis.call('HSET', users_key, changed[i], changed[i + 1])
end
write_index(occupancy, members, index, webhooks, grace_ms)
for _, user in ipairs(added) do
  local has_returned = redis.call('ZREM', webhooks.due_key, 'removed ' .. channel_id .. ' ' .. user) == 1
  if not has_returned and is_hooked(occupancy.hooked, 'member_added') then
    notify(webhooks, 'member_added', 'user', user)
  end
end
if is_hooked(occupancy.hooked, 'member_removed') then
  for _, user in ipairs(removed) do
    schedule(webhooks, now_ms + grace_ms, 'removed ' .. channel_id .. ' ' .. user)
  end
end
if #body > 0 then
  append_entry(channel, MEMBERS, 1, table.concat(body))
end

local last = wants_last == '1' and read_last(channel, occupancy, webhooks) or {}
publish_entry(channel)
return { position(channel), occupancy.total, refused, last, channel.has_deltas and 0 or 1, 0 }
