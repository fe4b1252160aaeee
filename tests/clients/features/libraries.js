// Adapters for the two libraries with a common interface, so that each feature is
// written once.
//
//   connect(environment, options)   a client
//   pusherOf(client)                the pusher-js client of a client
//   channel(client, kind, name)     subscribes to a channel

const PREFIX = { public: "", private: "private-", encrypted: "private-encrypted-", presence: "presence-" };

/** The full name of a channel, as a backend publishes to it. */
export function channelName(kind, name) {
  return PREFIX[kind] + name;
}

const pusherJs = {
  connect: ({ Pusher }, options) => new Pusher(options.key, options),
  pusherOf: (pusher) => pusher,
  channel(pusher, kind, name) {
    const channel = pusher.subscribe(channelName(kind, name));
    const on = (event, callback) => channel.bind(event, callback);
    return {
      on,
      subscribed: (callback) => on("pusher:subscription_succeeded", callback),
      refused: (callback) => on("pusher:subscription_error", callback),
      here: (callback) => on("pusher:subscription_succeeded", (all) => callback(Object.values(all.members))),
      joining: (callback) => on("pusher:member_added", (member) => callback(member.info)),
      leaving: (callback) => on("pusher:member_removed", (member) => callback(member.info)),
      whisper: (event, data) => channel.trigger(`client-${event}`, data),
      onWhisper: (event, callback) => on(`client-${event}`, callback),
      leave: () => pusher.unsubscribe(channel.name),
    };
  },
};

const ECHO = { public: "channel", private: "private", encrypted: "encryptedPrivate", presence: "join" };

/** Echo prepends the namespace `App\Events` to names that do not begin with a dot. */
function nameInEcho(event) {
  const namespace = "App\\Events\\";
  return event.startsWith(namespace) ? event.slice(namespace.length) : `.${event}`;
}

const laravelEcho = {
  connect: ({ makeEcho }, options) => makeEcho({ broadcaster: "pusher", ...options }),
  pusherOf: (echo) => echo.connector.pusher,
  channel(echo, kind, name) {
    const channel = echo[ECHO[kind]](name);
    return {
      on: (event, callback) => channel.listen(nameInEcho(event), callback),
      subscribed: (callback) => channel.subscribed(callback),
      refused: (callback) => channel.error(callback),
      here: (callback) => channel.here(callback),
      joining: (callback) => channel.joining(callback),
      leaving: (callback) => channel.leaving(callback),
      whisper: (event, data) => channel.whisper(event, data),
      onWhisper: (event, callback) => channel.listenForWhisper(event, callback),
      leave: () => echo.leave(name),
    };
  },
};

export const libraries = { "pusher-js": pusherJs, "laravel-echo": laravelEcho };
