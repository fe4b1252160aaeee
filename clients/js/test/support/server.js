// A real pusher-js whose WebSockets end in the test: it reads what the client
// sends, and says what a server would.

import Pusher from "pusher-js";
import { withDeltas } from "../../src/index.js";

/** Things that come one by one, and are read one by one. */
class Queue {
  #here = [];
  #readers = [];

  push(thing) {
    const reader = this.#readers.shift();
    if (reader) reader(thing);
    else this.#here.push(thing);
  }

  async next() {
    return this.#here.length ? this.#here.shift() : new Promise((resolve) => this.#readers.push(resolve));
  }

  get isEmpty() {
    return this.#here.length === 0;
  }
}

/** A socket of pusher-js, seen from the server. */
class Socket {
  sent = new Queue();
  opened = new Promise((resolve) => {
    setTimeout(() => {
      this.onopen();
      resolve();
    });
  });

  /** Called by pusher-js. */
  send(text) {
    this.sent.push(JSON.parse(text));
  }

  /** Called by pusher-js. */
  close() {
    this.onclose?.({ code: 1000, reason: "", wasClean: true });
  }

  /** Sends a frame, as an object or as its text. */
  say(frame) {
    this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  succeeded(channel, data = {}) {
    this.say({ event: "pusher_internal:subscription_succeeded", channel, data: JSON.stringify(data) });
  }

  /** The server asks the client to come back. */
  drop() {
    this.onclose({ code: 4200, reason: "", wasClean: false });
  }
}

/** What an application's backend grants beside its signature. */
const GRANT = { channel_data: '{"user_id":"ann"}', shared_secret: Buffer.alloc(32).toString("base64") };

/** A client that ends with the test `t`. */
export function start(t, options) {
  const sockets = new Queue();
  Pusher.Runtime.createWebSocket = () => {
    const socket = new Socket();
    sockets.push(socket);
    return socket;
  };
  const authorize = ({ socketId }, callback) => callback(null, { auth: `for ${socketId}`, ...GRANT });
  const pusher = new Pusher("key", {
    cluster: "",
    wsHost: "server",
    enabledTransports: ["ws"],
    channelAuthorization: { customHandler: authorize },
  });
  const deltas = withDeltas(pusher, options);
  t.after(() => pusher.disconnect());

  /** The next connection that the client opens. */
  async function accept(socket_id) {
    const socket = await sockets.next();
    await socket.opened;
    const data = JSON.stringify({ socket_id, activity_timeout: 120 });
    socket.say({ event: "pusher:connection_established", data });
    return socket;
  }

  /** Subscribes, and keeps what the application is told on the channel. */
  function subscribe(name) {
    const told = [];
    pusher.subscribe(name).bind_global((event, data) => told.push([event, data]));
    /** What was told since the last time. */
    return { told: () => told.splice(0) };
  }

  return { pusher, deltas, accept, subscribe };
}

/** A client whose subscription of `channel` stands, at number 10 of epoch 7. */
export async function subscribed(t, channel = "news", { options, data = { epoch: 7, seq: 10, resumed: false } } = {}) {
  const client = start(t, options);
  const { told } = client.subscribe(channel);
  const socket = await client.accept("1.1");
  const request = await socket.sent.next();
  socket.succeeded(channel, data);
  told();
  return { ...client, socket, request, told };
}
