--[[
  Number and remember what is announced on a channel: the part that all scripts
  share which have something to say. What they announce is published at their
  end, when everything is written.

  Every such script has the same first arguments:

  ARGV[1]  id            8 bytes: names the operation and its announcement
  ARGV[2]  seen_seq      the highest number the node has seen anywhere
  ARGV[3]  log_max       announcements that a log keeps
  ARGV[4]  log_bytes_max
  ARGV[5]  log_age_ms
  ARGV[6]  head_idle_ms  a channel is forgotten after this long in silence

  A channel's head (hash) has epoch, seq, id and time (ms) of the last
  announcement; log_bytes, log_from (ms, since when the log is complete), aged
  (ms, when it was last trimmed by age); deltas, 'off' while they are switched
  off; and what scripts add to it.
]]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local function number(value)
  -- Lua would write 16 digits as 1.7e+15.
  return string.format('%.0f', value)
end

local function read_channel(head_key, log_key, topic)
  local head = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time', 'log_bytes', 'log_from', 'aged',
    'resent', 'last_until', 'deltas')
  local length = redis.call('LLEN', log_key)
  return {
    head_key = head_key,
    log_key = log_key,
    topic = topic,
    epoch = tonumber(head[1]),
    seq = tonumber(head[2]),
    id = head[3],
    time = tonumber(head[4]),
    -- A log expires before its head: then nothing was announced since `time`.
    log_bytes = length > 0 and tonumber(head[5]) or 0,
    log_from = length > 0 and tonumber(head[6]) or tonumber(head[4]),
    aged = tonumber(head[7]),
    resent = head[8] or '',
    last_until = tonumber(head[9]) or 0,
    has_deltas = head[10] ~= 'off',
  }
end

-- Where the channel stands, as scripts return it.
local function position(channel)
  if not channel.epoch then
    return {}
  end
  return { number(channel.epoch), number(channel.seq), channel.id, number(channel.time) }
end

-- The first write is one that Redis refuses when its memory is full.
local function write_announcement(channel, kind, count, body)
  local id, seen_seq = ARGV[1], tonumber(ARGV[2])
  local log_max, log_bytes_max, log_age_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local is_new = not channel.epoch
  if is_new then
    channel.epoch = math.max(now_us, seen_seq)
    channel.seq, channel.id = channel.epoch, string.rep('\0', 8)
    channel.log_bytes, channel.log_from, channel.aged = 0, now_ms, now_ms
  end
  channel.announcement = struct.pack('>BBI8I8I4I8', 1, kind, channel.epoch, channel.seq + 1, count, now_ms)
    .. id .. channel.id .. body
  channel.log_bytes = channel.log_bytes + #channel.announcement
  channel.seq, channel.id, channel.time = channel.seq + count, id, now_ms

  local length = redis.call('RPUSH', channel.log_key, channel.announcement)
  if is_new then
    -- The log of an earlier epoch may be left.
    redis.call('LTRIM', channel.log_key, -1, -1)
    length = 1
  end

  local is_due = now_ms - channel.aged > log_age_ms / 4
  local function is_over()
    if length > log_max or channel.log_bytes > log_bytes_max then
      return true
    end
    -- Looked at now and then only: it reads a whole announcement.
    local oldest = is_due and redis.call('LINDEX', channel.log_key, 0)
    return oldest and struct.unpack('>I8', oldest, 23) < now_ms - log_age_ms
  end
  while length > 1 and is_over() do
    local oldest = redis.call('LPOP', channel.log_key)
    length, channel.log_bytes = length - 1, channel.log_bytes - #oldest
    channel.log_from = math.max(channel.log_from, (struct.unpack('>I8', oldest, 23)))
  end
  if is_due then
    channel.aged = now_ms
  end

  redis.call('HSET', channel.head_key, 'epoch', number(channel.epoch), 'seq', number(channel.seq), 'id', id,
    'time', number(now_ms), 'log_bytes', number(channel.log_bytes), 'log_from', number(channel.log_from),
    'aged', number(channel.aged))
  channel.is_new, channel.lives_ms = is_new, number(math.max(tonumber(ARGV[6]), channel.last_until - now_ms))
  redis.call('PEXPIRE', channel.head_key, channel.lives_ms)
  redis.call('PEXPIRE', channel.log_key, log_age_ms)
end

local function publish_announcement(channel)
  if channel.announcement then
    redis.call('PUBLISH', channel.topic, channel.announcement)
  end
end
