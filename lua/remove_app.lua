--[[
  Remove an app, and tell all nodes.

  An empty text stays under its id. By it a node that did not hear of the removal
  can tell it from a Redis that has lost its data, and closes the app's sockets
  in the first case only: they would not come back.

  KEYS[1]  apps      (hash): id -> settings, TOML
  KEYS[2]  app_keys  (hash): key -> id

  ARGV[1]  topic     where nodes hear of changed apps
  ARGV[2]  id
  ARGV[3]  before    the settings as they were read
  ARGV[4]  key       the app's, by those settings

  Returns  1
  Errors   CHANGED   these are not its settings any more
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
