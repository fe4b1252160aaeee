--[[
  Remove an app and notify all nodes.

  An empty string stays under its id. It distinguishes a removed app from a Redis
  that has lost its data: a node that missed the removal closes the app's
  connections in the first case only, because their clients would not reconnect.

  KEYS[1]  apps      (hash): id -> settings, TOML
  KEYS[2]  app_keys  (hash): key -> id

  ARGV[1]  topic     on which nodes receive the ids of changed apps
  ARGV[2]  id
  ARGV[3]  before    settings that the caller has read
  ARGV[4]  key       of the app, according to these settings

  Returns  1
  Errors   CHANGED   the current settings differ from `before`
]]
local apps_key, app_keys_key = KEYS[1], KEYS[2]
local topic, id, before, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('HGET', apps_key, id) ~= before then
  return redis.error_reply('CHANGED the app was changed by somebody else')
end
redis.call('HSET', apps_key, id, '')
redis.call('HDEL', app_keys_key, key)
redis.call('PUBLISH', topic, id)
return 1
