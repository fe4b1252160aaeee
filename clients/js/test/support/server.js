// A stock pusher-js with fake WebSockets: the test reads the client's frames and
// delivers those of a server.

import Pusher from "pusher-js";
import { withDeltas } from "../../src/index.js";

/** An unbounded queue. `next` waits for an item. */
class Queue {
  #items = [];
  #readers = [];

  push(item) {
    const reader = this.#readers.shift();
    if (reader) reader(item);
    else this.#items.push(item);
  }

  async next() {
    return this.#items.length ? this.#items.shift() : new Promise((resolve) => this.#readers.push(resolve));
  }

  get isEmpty() {
    return this.#items.length === 0;
  }
}

/** The server's end of a WebSocket of pusher-js. */
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

  /** Delivers a frame, an object or a text, to the client. */
  deliver(frame) {
    this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  succeeded(channel, data = {}) {
    this.deliver({ event: "pusher_internal:subscription_succeeded", channel, data: JSON.stringify(data) });
  }

  /** Closes the connection with 4200: reconnect immediately. */
  drop() {
    this.onclose({ code: 4200, reason: "", wasClean: false });
  }
}

/** Further members of the backend's authorization response. */
const AUTH_MEMBERS = { channel_data: '{"user_id":"ann"}', shared_secret: Buffer.alloc(32).toString("base64") };

/** A client that disconnects at the end of test `t`. */
export function start(t, options) {
  const sockets = new Queue();
  Pusher.Runtime.createWebSocket = () => {
    const socket = new Socket();
    sockets.push(socket);
    return socket;
  };
  const authorize = ({ socketId }, callback) => callback(null, { auth: `for ${socketId}`, ...AUTH_MEMBERS });
  const pusher = new Pusher("key", {
    cluster: "",
    wsHost: "server",
    enabledTransports: ["ws"],
    channelAuthorization: { customHandler: authorize },
  });
  const deltas = withDeltas(pusher, options);
  t.after(() => pusher.disconnect());

  /** Accepts the next connection of the client. */
  async function accept(socket_id) {
    const socket = await sockets.next();
    await socket.opened;
    const data = JSON.stringify({ socket_id, activity_timeout: 120 });
    socket.deliver({ event: "pusher:connection_established", data });
    return socket;
  }

  /** Subscribes, and records the events that the application receives on the channel. */
  function subscribe(name) {
    const received = [];
    pusher.subscribe(name).bind_global((event, data) => received.push([event, data]));
    /** Returns and clears the recorded events. */
    return { received: () => received.splice(0) };
  }

  return { pusher, deltas, accept, subscribe };
}

/** A client with a confirmed subscription to `channel`, at number 10 of epoch 7. */
export async function subscribed(t, channel = "news", { options, data = { epoch: 7, seq: 10, resumed: false } } = {}) {
  const client = start(t, options);
  const { received } = client.subscribe(channel);
  const socket = await client.accept("1.1");
  const request = await socket.sent.next();
  socket.succeeded(channel, data);
  received();
  return { ...client, socket, request, received };
}
