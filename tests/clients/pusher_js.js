// The stock client pusher-js in Node. Its Node build supports encrypted channels.
//
//   node pusher_js.js HOST PORT KEY
//
// Environment: APP_SECRET signs subscriptions to private and encrypted channels, and
// sign-ins, like an application's auth endpoints. ENCRYPTION_MASTER_KEY (32 bytes in
// base64) also provides the secrets of encrypted channels.
//
// Commands
//   {"cmd":"subscribe","channel":C,"channel_data":D?}    D becomes the signed `channel_data`
//   {"cmd":"unsubscribe","channel":C}
//   {"cmd":"sign_in","user":{"id":ID,…}}                 connects first if disconnected
//   {"cmd":"bind_all"}
//   {"cmd":"disconnect"} {"cmd":"connect"}
// Reports
//   {"type":"state","previous":S,"current":S,"socket_id":ID|null}
//   {"type":"event","channel":C,"event":E,"data":D}
//   {"type":"signed_in","user":{"id":ID,…},"channel":C}  C is the user channel, subscribed
//   {"type":"user_event","event":E,"data":D}
//   {"type":"all","event":E,"data":D}                    after bind_all
//   {"type":"error","error":E}
//
// Events are those of the channel as an application receives them, including
// `pusher:subscription_succeeded`. `data` is the value from pusher-js: parsed if the
// data was JSON.

import PusherJs from "pusher-js";
import PusherServer from "pusher";
import { print, serveCommands } from "./json_lines.js";

const [host, port, key] = process.argv.slice(2);
if (!key) {
  console.error("usage: pusher_js.js HOST PORT KEY");
  process.exit(2);
}

// Pusher's own server library signs, so that Fanfare's code computes neither signature.
const authEndpoint = new PusherServer({
  appId: "0",
  key,
  secret: process.env.APP_SECRET ?? "",
  ...(process.env.ENCRYPTION_MASTER_KEY && {
    encryptionMasterKeyBase64: process.env.ENCRYPTION_MASTER_KEY,
  }),
});

// `channel_data` for the next authorization, by channel.
const channelData = new Map();
let user;

/** Passes the result or error of an auth endpoint to a callback of pusher-js. */
function respond(callback, authorize) {
  try {
    callback(null, authorize());
  } catch (error) {
    callback(error, null);
  }
}

const pusher = new PusherJs(key, {
  wsHost: host,
  wsPort: Number(port),
  cluster: "",
  forceTLS: false,
  enableStats: false,
  enabledTransports: ["ws"],
  channelAuthorization: {
    customHandler({ socketId, channelName }, callback) {
      respond(callback, () => authEndpoint.authorizeChannel(socketId, channelName, channelData.get(channelName)));
    },
  },
  userAuthentication: {
    customHandler({ socketId }, callback) {
      respond(callback, () => authEndpoint.authenticateUser(socketId, user));
    },
  },
});

pusher.connection.bind("state_change", ({ previous, current }) => {
  print({ type: "state", previous, current, socket_id: pusher.connection.socket_id ?? null });
});
pusher.user.bind_global((event, data) => print({ type: "user_event", event, data: data ?? null }));
pusher.connection.bind("message", ({ event }) => {
  if (event !== "pusher:signin_success") return;
  const channel = pusher.user.serverToUserChannel;
  channel.bind("pusher:subscription_succeeded", () => {
    print({ type: "signed_in", user: pusher.user.user_data, channel: channel.name });
  });
});
pusher.connection.bind("error", (error) => print({ type: "error", error }));

await serveCommands({
  subscribe({ channel, channel_data }) {
    channelData.set(channel, channel_data);
    const known = pusher.channel(channel);
    const subscribed = pusher.subscribe(channel);
    // For a subscribed channel, pusher-js returns the same object.
    if (known !== subscribed) {
      subscribed.bind_global((event, data) => print({ type: "event", channel, event, data: data ?? null }));
    }
  },
  unsubscribe({ channel }) {
    pusher.unsubscribe(channel);
  },
  sign_in(command) {
    user = command.user;
    pusher.signin();
    // If a sign-in ended with the connection, pusher-js repeats it after the next connect.
    pusher.connect();
  },
  bind_all() {
    pusher.bind_global((event, data) => print({ type: "all", event, data: data ?? null }));
  },
  disconnect() {
    pusher.disconnect();
  },
  connect() {
    pusher.connect();
  },
});
