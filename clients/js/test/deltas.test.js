import assert from "node:assert/strict";
import { test } from "node:test";
import { withDeltas } from "../src/index.js";
import { delta, event, full, withMembers } from "./support/frames.js";
import { start, subscribed } from "./support/server.js";

const price = (number) => ({ asset: "BTC", text: "čeština \"🎺\" and more of the same", number });
const tick = (number) => ["tick", price(number)];

test("deltas reach the application as decoded events", async (t) => {
  const { socket, received, deltas } = await subscribed(t);
  socket.deliver(full(11, price(1)));
  socket.deliver(delta(12, 11, event(price(1)), event(price(2))));
  socket.deliver(delta(14, 12, event(price(2)), event(price(3))));
  socket.deliver(full(15, price(4)));
  socket.deliver(delta(16, 15, event(price(4)), event(price(5))));
  assert.deepEqual(received(), [1, 2, 3, 4, 5].map(tick));
  const { events, deltas: count, resyncs } = deltas.stats();
  assert.deepEqual({ events, count, resyncs }, { events: 5, count: 3, resyncs: 0 });
});

test("string data in a delta is parsed by pusher-js", async (t) => {
  const { socket, received } = await subscribed(t);
  const texts = [1, 2].map((number) => JSON.stringify(price(number)));
  socket.deliver(full(11, texts[0]));
  socket.deliver(delta(12, 11, event(texts[0]), event(texts[1])));
  assert.deepEqual(received(), [1, 2].map(tick));
});

test("event name and user_id are decoded from the delta", async (t) => {
  const { socket, pusher } = await subscribed(t);
  const seen = [];
  pusher.connection.bind("message", ({ event, user_id }) => seen.push([event, user_id]));
  const target = withMembers(event(price(2), { name: "other" }), { user_id: "ann" });
  socket.deliver(full(11, price(1)));
  socket.deliver(delta(12, 11, event(price(1)), target));
  assert.deepEqual(seen, [["tick", undefined], ["other", "ann"]]);
});

test("VCDIFF deltas are decoded under three names and as the confirmed default", async (t) => {
  const { socket, received } = await subscribed(t);
  const [base, target] = [event(price(1)), event(price(2))];
  for (const algorithm of ["xdelta3", "vcdiff", "XDELTA3"]) {
    socket.deliver(full(11, price(1)));
    socket.deliver(delta(12, 11, base, target, { algorithm }));
    assert.deepEqual(received(), [1, 2].map(tick), algorithm);
  }
  const data = { enabled: true, algorithm: "xdelta3", channel: "news" };
  socket.deliver({ event: "pusher:delta_compression_enabled", channel: "news", data });
  const unnamed = JSON.parse(delta(14, 13, base, target, { algorithm: "xdelta3" }));
  delete unnamed.data.algorithm;
  socket.deliver(full(13, price(1)));
  socket.deliver(unnamed);
  assert.deepEqual(received(), [1, 2].map(tick));
});

test("conflation keys have separate chains", async (t) => {
  const { socket, received } = await subscribed(t);
  for (const [at, key] of ["BTC", "ETH", "čeština"].entries()) {
    socket.deliver(withMembers(event(price(at)), { __delta_seq: 20 + at, __conflation_key: key }));
  }
  socket.deliver(delta(24, 21, event(price(1)), event(price(8)), { conflation_key: "ETH" }));
  socket.deliver(delta(25, 20, event(price(0)), event(price(9)), { conflation_key: "BTC" }));
  assert.deepEqual(received(), [0, 1, 2, 8, 9].map(tick));
});

test("markers of the style `plain` are part of the base", async (t) => {
  const { socket, received } = await subscribed(t);
  // Data with markers of the other style, which have no effect here.
  const first = { __conflation_key: "x", __delta_seq: 3, quoted: ',"__delta_seq":4' };
  const base = withMembers(event(first), { sequence: 11, conflation_key: 'a "key"' });
  const target = withMembers(event(price(2)), { sequence: 12, conflation_key: 'a "key"' });
  socket.deliver(base);
  socket.deliver(delta(12, 11, base, target, { conflation_key: 'a "key"' }));
  assert.deepEqual(received(), [["tick", first], tick(2)]);
});

test("events without markers do not change the base", async (t) => {
  const { socket, received } = await subscribed(t);
  socket.deliver(full(11, price(1)));
  socket.deliver(withMembers(event(price(2)), { __seq: 12 }));
  socket.deliver(event(price(3)));
  socket.deliver(delta(13, 11, event(price(1)), event(price(4))));
  assert.deepEqual(received(), [1, 2, 3, 4].map(tick));
});

test("initial bases are the base of the first delta", async (t) => {
  const { socket, received } = await subscribed(t);
  const old = { content: event(price(1)), seq: 8 };
  const states = { BTC: [old, { content: event(price(2)), seq: 9 }] };
  const data = JSON.stringify({ conflation_key: "asset", max_messages_per_key: 10, states });
  socket.deliver({ event: "pusher:delta_cache_sync", channel: "news", data });
  socket.deliver(delta(11, 9, event(price(2)), event(price(3)), { conflation_key: "BTC" }));
  assert.deepEqual(received(), [tick(3)]);
});

test("options select the requested extensions", async (t) => {
  const requested = async (channel, options) => {
    const { request } = await subscribed(t, channel, { options });
    return { delta: request.data.delta, resume: request.data.resume };
  };
  assert.deepEqual(await requested("news"), { delta: true, resume: true });
  assert.deepEqual(await requested("news", { algorithm: "xdelta3" }), { delta: "xdelta3", resume: true });
  assert.deepEqual(await requested("news", { resume: false }), { delta: true, resume: undefined });
  const channels = (name) => name !== "news";
  assert.deepEqual(await requested("news", { channels }), { delta: undefined, resume: undefined });
  assert.deepEqual(await requested("other", { channels }), { delta: true, resume: true });
  assert.deepEqual(await requested("private-encrypted-a"), { delta: undefined, resume: true });
});

test("extension events do not reach the application", async (t) => {
  const { socket, pusher } = await subscribed(t);
  const seen = [];
  pusher.bind_global((event) => seen.push(event));
  socket.deliver({ event: "pusher:position", channel: "news", data: { epoch: 7, seq: 30 } });
  socket.deliver({ event: "pusher:delta_cache_sync", channel: "news", data: { states: {} } });
  socket.deliver({ event: "pusher:delta_compression_enabled", data: { enabled: true, algorithm: "fossil" } });
  socket.deliver(full(31, price(1)));
  pusher.unsubscribe("news");
  socket.deliver(delta(32, 31, event(price(1)), event(price(2))));
  assert.deepEqual(seen, ["tick"]);
});

test("invalid frames are reported by pusher-js", async (t) => {
  const { socket, pusher } = await subscribed(t);
  const errors = [];
  pusher.connection.bind("error", ({ type }) => errors.push(type));
  socket.deliver("not JSON");
  assert.deepEqual(errors, ["MessageParseError"]);
});

test("bytes are counted per channel and in total", async (t) => {
  const { socket, deltas, pusher, accept } = await subscribed(t);
  const before = deltas.stats("news");
  const [base, target] = [event(price(1)), event(price(2))];
  const frames = [full(11, price(1)), delta(12, 11, base, target)];
  frames.forEach((frame) => socket.deliver(frame));
  const now = deltas.stats("news");
  const size = (texts) => texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  assert.equal(now.bytes - before.bytes, size(frames));
  assert.equal(now.fullBytes - before.fullBytes, size([base, target]));
  assert.equal(now.saved, now.fullBytes - now.bytes);
  assert.deepEqual(deltas.stats(), now);
  pusher.unsubscribe("news");
  assert.equal(deltas.stats("news").bytes, 0);
  assert.equal(deltas.stats().bytes, now.bytes);
});

test("withDeltas called twice or after the connect takes effect once", async (t) => {
  const { pusher, deltas, accept } = start(t);
  assert.equal(withDeltas(pusher, { resume: false }), deltas);
  const socket = await accept("1.1");
  pusher.subscribe("news");
  assert.equal((await socket.sent.next()).data.resume, true);
});
