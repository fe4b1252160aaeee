--[[
  Read a channel's history after a sequence number that a client has received, and
  a bounded number of entries before it, which contain the client's delta bases.

  Clients receive the low 31 bits of a sequence number. The script takes the
  newest number, up to the head, that has these bits.

  KEYS[1]  head  of the channel (hash)
  KEYS[2]  log   history of the channel (list)

  ARGV[1]  seen        low 31 bits of the sequence number
  ARGV[2]  before_max  limit of entries before the one with this number
  ARGV[3]  run_id      of the Redis process, as the node knows it

  Returns  epoch, seq, id and time of the head (nil if there is none), then the
           entries, oldest first; the whole history if it begins after the number.
           Nothing if another process opened the epoch: this one may have lost
           entries of it.
  Errors   none of its own.
]]
local head_key, log_key = KEYS[1], KEYS[2]
local seen, before_max, run_id = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

local reply = redis.call('HMGET', head_key, 'epoch', 'seq', 'id', 'time', 'run_id')
local length = redis.call('LLEN', log_key)
if table.remove(reply) ~= run_id then
  return {}
end
local head_seq = tonumber(reply[2])
local seq = head_seq - (head_seq - seen) % 2 ^ 31

-- Sequence numbers grow along the history, and are in bytes 11 to 18 of an entry
-- (src/entry.rs): binary search for the first entry above `seq`.
local from, to = 0, length
while from < to do
  local middle = math.floor((from + to) / 2)
  local first_seq = struct.unpack('>I8', redis.call('LINDEX', log_key, middle), 11)
  if first_seq <= seq then
    from = middle + 1
  else
    to = middle
  end
end
for i, entry in ipairs(redis.call('LRANGE', log_key, math.max(0, from - 1 - before_max), -1)) do
  reply[4 + i] = entry
end
return reply
