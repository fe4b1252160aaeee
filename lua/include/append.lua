--[[
  Append entries to a channel's history: number them, store them, and publish them
  at the end of the script, after all other writes. Shared by all scripts that
  append entries.

  Every such script has the same first arguments:

  ARGV[1]  id            8 bytes: identifies the operation and its entry
  ARGV[2]  seen_seq      highest sequence number the node has received on any channel
  ARGV[3]  log_max       limit of entries in a history
  ARGV[4]  log_bytes_max
  ARGV[5]  log_age_ms    age that a history covers, within the other limits
  ARGV[6]  head_idle_ms  time without entries after which a channel expires
  ARGV[7]  run_id        of the Redis process, as the node knows it

  A channel's head (hash) has epoch, seq, id and time (ms) of the last
  entry; offset, the bytes of all entries since the head was created;
  log_bytes, log_from (ms, since when the history is complete), aged (ms, time of
  the last trim by age); deltas, 'off' while deltas are disabled; counts, the
  number of subscription counts among the entries of the epoch; run_id, of the
  process that opened the epoch; and fields that other scripts add.

  A process that is not the one that opened the epoch may have lost entries: after
  a restart, or as a replica that was promoted. Its first entry opens a new epoch,
  so that no sequence number is used twice. The entry still names its predecessor:
  a node that has handled it knows that it has missed nothing.

  Redis hashes every byte of a string that it passes to Lua, so reading an entry
  costs as much as writing it. Trimming a history that exceeds a limit therefore
  removes an eighth of the entries at once and reads only the oldest remaining
  one: the offset in its header determines the remaining bytes.
]]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- As text: Lua formats numbers of 16 digits as 1.7e+15 in replies. Numbers that
-- are arguments of redis.call are passed in full.
local function number(value)
  return string.format('%.0f', value)
end

local function read_channel(head_key, log_key)
  local head = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time', 'log_bytes', 'log_from', 'aged',
    'resent', 'last_until', 'deltas', 'offset', 'run_id')
  local length = redis.call('LLEN', log_key)
  return {
    head_key = head_key,
    log_key = log_key,
    epoch = tonumber(head[1]),
    seq = tonumber(head[2]),
    id = head[3],
    time = tonumber(head[4]),
    -- The history expires before its head: then there are no entries since `time`.
    log_bytes = length > 0 and tonumber(head[5]) or 0,
    log_from = length > 0 and tonumber(head[6]) or tonumber(head[4]),
    aged = tonumber(head[7]),
    resent = head[8] or '',
    last_until = tonumber(head[9]) or 0,
    has_deltas = head[10] ~= 'off',
    offset = tonumber(head[11]),
    run_id = head[12],
  }
end

-- The channel's position, in the form in which scripts return it.
local function position(channel)
  if not channel.epoch then
    return {}
  end
  return { number(channel.epoch), number(channel.seq), channel.id, number(channel.time) }
end

-- Trimming by age keeps at least one entry that is too old, so that the history
-- covers the whole age. Checked at most every quarter of the age. Returns whether
-- `log_from` or `aged` has changed.
local function trim_log(channel, length)
  local log_max, log_bytes_max, log_age_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local is_due = now_ms - channel.aged > log_age_ms / 4
  local has_changed = is_due
  while length > 1 do
    local is_over = length > log_max or channel.log_bytes > log_bytes_max
    if not is_over and not is_due then
      break
    end
    local dropped = math.ceil(length / 8)
    local oldest = redis.call('LINDEX', channel.log_key, dropped)
    local time, offset = struct.unpack('>I8I8', oldest, 23)
    if not is_over and time >= now_ms - log_age_ms then
      break
    end
    redis.call('LTRIM', channel.log_key, dropped, -1)
    length, channel.log_bytes = length - dropped, channel.offset - offset
    channel.log_from, has_changed = math.max(channel.log_from, time), true
  end
  if is_due then
    channel.aged = now_ms
  end
  return has_changed
end

-- Opens an epoch above all sequence numbers that are known to be in use.
local function open_epoch(channel)
  channel.epoch = math.max(now_us, tonumber(ARGV[2]), channel.seq or 0)
  channel.seq, channel.run_id = channel.epoch, ARGV[7]
end

-- The first write is RPUSH, which Redis refuses when its memory is full.
local function append_entry(channel, kind, count, body)
  local id = ARGV[1]
  local is_new, opens_epoch = not channel.epoch, channel.run_id ~= ARGV[7]
  if opens_epoch then
    open_epoch(channel)
  end
  if is_new then
    channel.id = string.rep('\0', 8)
    channel.offset, channel.log_bytes, channel.log_from, channel.aged = 0, 0, now_ms, now_ms
  end
  channel.entry = struct.pack('>BBI8I8I4I8I8', 1, kind, channel.epoch, channel.seq + 1, count, now_ms,
    channel.offset) .. id .. channel.id .. body
  channel.offset = channel.offset + #channel.entry
  channel.log_bytes = channel.log_bytes + #channel.entry
  channel.seq, channel.id, channel.time = channel.seq + count, id, now_ms

  local length = redis.call('RPUSH', channel.log_key, channel.entry)
  if is_new then
    -- The history of an earlier epoch may still exist.
    redis.call('LTRIM', channel.log_key, -1, -1)
    length = 1
  end
  -- Fields that seldom change are written only when they do.
  if trim_log(channel, length) or length == 1 or opens_epoch then
    redis.call('HSET', channel.head_key, 'epoch', channel.epoch, 'log_from', channel.log_from, 'aged', channel.aged,
      'run_id', channel.run_id)
  end
  if opens_epoch and not is_new then
    -- Entries of the earlier epoch may be others than counts.
    redis.call('HSET', channel.head_key, 'counts', -1)
  end
  redis.call('HSET', channel.head_key, 'seq', channel.seq, 'id', id, 'time', now_ms, 'offset', channel.offset,
    'log_bytes', channel.log_bytes)
  channel.is_new, channel.expires_at = is_new, math.max(now_ms + tonumber(ARGV[6]), channel.last_until)
  -- An absolute time: for a relative one, Redis would read its clock again.
  redis.call('PEXPIREAT', channel.head_key, channel.expires_at)
  redis.call('PEXPIRE', channel.log_key, ARGV[5])
end

local function append_count(channel, total)
  local SUBSCRIPTION_COUNT = 4
  append_entry(channel, SUBSCRIPTION_COUNT, 1, struct.pack('>I8', total))
  redis.call('HINCRBY', channel.head_key, 'counts', 1)
end

-- A channel's topic has the same name as its history.
local function publish_entry(channel)
  if channel.entry then
    redis.call('PUBLISH', channel.log_key, channel.entry)
  end
end
