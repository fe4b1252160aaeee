--[[
  List a page of an app's occupied channels in one partition, in the order of
  their names.

  KEYS[1]  occupied  (sorted set): channel names
  KEYS[2]  counts    (hash): channel -> "subscriptions users"

  ARGV[1]  from       in the syntax of ZRANGEBYLEX
  ARGV[2]  to
  ARGV[3]  count_max  at most 1,000: Lua cannot unpack many more

  Returns  the names, and the counts of each.
  Errors   none of its own.
]]
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
if #names == 0 then
  return { {}, {} }
end
return { names, redis.call('HMGET', KEYS[2], unpack(names)) }
