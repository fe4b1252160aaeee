// The stock browser client, pusher-js, as Node loads it (its Node build can
// decrypt encrypted channels too).
//
//   node pusher_js.js HOST PORT KEY
//
// Environment: APP_SECRET signs subscriptions to private and encrypted
// channels, and sign-ins, as an application's auth endpoints would;
// ENCRYPTION_MASTER_KEY (32 bytes in base64) also yields the secret of encrypted
// channels.
//
// Commands
//   {"cmd":"subscribe","channel":C,"channel_data":D?}    D becomes the signed `channel_data`
//   {"cmd":"unsubscribe","channel":C}
//   {"cmd":"sign_in","user":{"id":ID,…}}                 connects where it is disconnected
//   {"cmd":"bind_all"}
//   {"cmd":"disconnect"} {"cmd":"connect"}
// Reports
//   {"type":"state","previous":S,"current":S,"socket_id":ID|null}
//   {"type":"event","channel":C,"event":E,"data":D}
//   {"type":"signed_in","user":{"id":ID,…},"channel":C}  C is the user's own channel, subscribed
//   {"type":"user_event","event":E,"data":D}
//   {"type":"all","event":E,"data":D}                    after bind_all
//   {"type":"error","error":E}
//
// Events are those of the channel as an application sees them, among them
// `pusher:subscription_succeeded`; `data` is what pusher-js passes on: parsed
// JSON where the data was JSON.

import PusherJs from "pusher-js";
import PusherServer from "pusher";
import { print, serveCommands } from "./json_lines.js";

const [host, port, key] = process.argv.slice(2);
if (!key) {
  console.error("usage: pusher_js.js HOST PORT KEY");
  process.exit(2);
}

// Pusher's own server library signs, so that neither side of the signature is ours.
const authEndpoint = new PusherServer({
  appId: "0",
  key,
  secret: process.env.APP_SECRET ?? "",
  ...(process.env.ENCRYPTION_MASTER_KEY && {
    encryptionMasterKeyBase64: process.env.ENCRYPTION_MASTER_KEY,
  }),
});

// By channel, for its next authorization.
const channelData = new Map();
let user;

/** The answer of an auth endpoint, or its error, to a callback of pusher-js. */
function answer(callback, authorize) {
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
      answer(callback, () => authEndpoint.authorizeChannel(socketId, channelName, channelData.get(channelName)));
    },
  },
  userAuthentication: {
    customHandler({ socketId }, callback) {
      answer(callback, () => authEndpoint.authenticateUser(socketId, user));
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
    // The same object comes back for a channel that is subscribed already.
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
    // After a sign-in that ended with the connection, pusher-js signs in once it is connected again.
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
