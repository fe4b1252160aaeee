--[[
  Store the newest event of each of a channel's chains, as initial bases for new
  subscribers.

  A channel's bases (hash) has for each key the sequence number (8 bytes) and the
  time (ms, 8 bytes) of the newest event of that chain, and the event in its
  encoding; its base_order (sorted set) has the keys by that number. Both expire
  together with the head of the same write.

  The list of new bases is at the end of a publication's descriptor: the limit of
  chains of the channel (4 bytes), then for each base its index among the events
  (from 0), its offset in the body (from 0), its bytes (4 bytes each), the length
  of its key (2 bytes) and the key. Above the limit, the chains with the oldest
  events are removed.
]]
local function read_bases(bases_key, order_key, list, list_at)
  redis.call('HLEN', bases_key)
  redis.call('ZCARD', order_key)
  return { key = bases_key, order_key = order_key, list = list, list_at = list_at }
end

-- Lua limits how many values `unpack` may return.
local function write_pairs(command, key, pairs)
  local page_size = 1000
  for from = 1, #pairs, page_size do
    redis.call(command, key, unpack(pairs, from, math.min(#pairs, from + page_size - 1)))
  end
end

-- Follows append_entry, whose first write a Redis without free memory refuses.
local function keep_bases(channel, bases)
  local keys_max, at = struct.unpack('>I4', bases.list, bases.list_at)
  local first_seq = channel.seq - channel.count + 1
  local events, order = {}, {}
  while at <= #bases.list do
    local index, start, bytes, key
    index, start, bytes, key, at = struct.unpack('>I4I4I4I2c0', bases.list, at)
    local seq = first_seq + index
    events[#events + 1] = key
    events[#events + 1] = struct.pack('>I8I8', seq, now_ms) .. string.sub(channel.body, start + 1, start + bytes)
    order[#order + 1] = number(seq)
    order[#order + 1] = key
  end
  if channel.is_new then
    -- Bases of an earlier epoch may still exist.
    redis.call('DEL', bases.key, bases.order_key)
  end
  write_pairs('HSET', bases.key, events)
  write_pairs('ZADD', bases.order_key, order)
  local excess = redis.call('ZCARD', bases.order_key) - keys_max
  if excess > 0 then
    local removed = redis.call('ZPOPMIN', bases.order_key, excess)
    for i = 1, #removed, 2 do
      redis.call('HDEL', bases.key, removed[i])
    end
  end
  redis.call('PEXPIREAT', bases.key, channel.expires_at)
  redis.call('PEXPIREAT', bases.order_key, channel.expires_at)
end
