import assert from "node:assert/strict";
import { test } from "node:test";
import { delta, event, full, withMembers } from "./support/frames.js";
import { subscribed } from "./support/server.js";

const price = (number) => ({ asset: "BTC", text: "more of the same", number });
const tick = (number) => ["tick", price(number)];
const step = (number, more) => delta(number, number - 1, event(price(number - 1)), event(price(number)), more);
const RESTART = ["fanfare:restart", {}];

/** Drops the connection, accepts the next one, and confirms its subscription. */
async function reconnect({ socket, accept }, id, data) {
  socket.drop();
  const next = await accept(id);
  const request = await next.sent.next();
  next.succeeded("news", data);
  return { socket: next, request };
}

test("reconnect requests resume from the last position", async (t) => {
  const client = await subscribed(t);
  client.socket.deliver(full(11, price(11)));
  client.socket.deliver(step(12));
  client.socket.deliver(withMembers(event(price(13)), { __seq: 13 }));
  client.received();

  const { socket, request } = await reconnect(client, "2.2", { epoch: 7, seq: 13, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 13, from: 10, socket_id: ["1.1"] });
  // The base was received on the old connection.
  socket.deliver(delta(14, 12, event(price(12)), event(price(14))));
  const succeeded = ["pusher:subscription_succeeded", { epoch: 7, seq: 13, resumed: true }];
  assert.deepEqual(client.received(), [succeeded, tick(14)]);
  assert.equal(client.deltas.stats().resumed, 1);
});

test("each resume contains the token of the last confirmation", async (t) => {
  const client = await subscribed(t, "news", { data: { epoch: 7, seq: 10, resumed: false, token: "1.10.a" } });
  client.socket.deliver(full(11, price(11)));
  const first = await reconnect(client, "2.2", { epoch: 7, seq: 11, resumed: true, token: "1.11.b" });
  assert.equal(first.request.data.resume.token, "1.10.a");
  const { request } = await reconnect({ ...client, ...first }, "3.3", { epoch: 7, seq: 11, resumed: true });
  assert.equal(request.data.resume.token, "1.11.b");
});

test("failed resume resets the position and emits fanfare:restart", async (t) => {
  const client = await subscribed(t);
  client.socket.deliver(full(11, price(11)));
  client.received();
  const first = await reconnect(client, "2.2", { epoch: 8, seq: 40, resumed: false });
  assert.deepEqual(client.received().at(-1), RESTART);
  first.socket.deliver(full(41, price(41)));
  first.socket.deliver(step(42));
  assert.deepEqual(client.received(), [41, 42].map(tick));

  const { request } = await reconnect({ ...client, ...first }, "3.3", { epoch: 8, seq: 42, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 8, seq: 42, from: 40, socket_id: ["1.1", "2.2"] });
  assert.deepEqual(client.deltas.stats().restarted, 1);
});

test("position notices update seq and epoch", async (t) => {
  const client = await subscribed(t);
  const position = (epoch, seq) =>
    client.socket.deliver({ event: "pusher:position", channel: "news", data: { epoch, seq } });
  client.socket.deliver(full(11, price(11)));
  position(7, 20);
  // Older than the current position, so that it has no effect.
  position(7, 19);
  let next = await reconnect(client, "2.2", { epoch: 7, seq: 20, resumed: true });
  assert.deepEqual(next.request.data.resume, { epoch: 7, seq: 20, from: 10, socket_id: ["1.1"] });

  next.socket.deliver({ event: "pusher:position", channel: "news", data: { epoch: 9, seq: 3 } });
  next = await reconnect({ ...client, ...next }, "3.3", { epoch: 9, seq: 3, resumed: true });
  assert.deepEqual(next.request.data.resume, { epoch: 9, seq: 3, from: 3, socket_id: ["1.1", "2.2"] });
});

test("first event of a new channel sets the position", async (t) => {
  const client = await subscribed(t, "news", { data: { epoch: 0, seq: 0, resumed: false } });
  const first = 2 ** 31 - 5;
  const data = { epoch: 7, seq: first - 1 };
  client.socket.deliver({ event: "pusher:position", channel: "news", data });
  client.socket.deliver(full(first, price(first)));
  client.socket.deliver(step(first + 1));
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: first + 1, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: first + 1, from: first - 1, socket_id: ["1.1"] });
});

test("position notice with missed emits fanfare:restart", async (t) => {
  const { socket, received } = await subscribed(t);
  socket.deliver(full(11, price(11)));
  const data = { epoch: 7, seq: 15, missed: true };
  socket.deliver({ event: "pusher:position", channel: "news", data });
  // The notice has cleared the bases.
  socket.deliver(step(16));
  const { resume } = (await socket.sent.next()).data;
  assert.deepEqual(resume, { epoch: 7, seq: 15, socket_id: [] });
  assert.deepEqual(received(), [tick(11), RESTART]);
});

test("sequence numbers wrap at 2^31", async (t) => {
  const last = 2 ** 31 - 1;
  const client = await subscribed(t, "news", { data: { epoch: 7, seq: last, resumed: false } });
  client.socket.deliver(full(0, price(0)));
  client.socket.deliver(step(1));
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 1, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 1, from: last, socket_id: ["1.1"] });
});

test("resume requests contain the eight newest previous socket ids", async (t) => {
  let client = await subscribed(t);
  for (let number = 2; number <= 11; number += 1) {
    const next = await reconnect(client, `${number}.1`, { epoch: 7, seq: 10, resumed: true });
    client = { ...client, ...next };
  }
  const ids = [3, 4, 5, 6, 7, 8, 9, 10].map((number) => `${number}.1`);
  assert.deepEqual(client.request.data.resume.socket_id, ids);
});

test("evicted bases are not claimed", async (t) => {
  const client = await subscribed(t);
  for (let at = 0; at < 1001; at += 1) {
    const markers = { __delta_seq: 11 + at, __conflation_key: `key ${at}` };
    client.socket.deliver(withMembers(event(price(at)), markers));
  }
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 1011, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 1011, from: 11, socket_id: ["1.1"] });
});

const INVALID_DELTAS = {
  "without its base": step(13),
  "that does not decode": delta(12, 11, "another base, longer than ours".repeat(20), event(price(12))),
  "that decodes to invalid JSON": delta(12, 11, event(price(11)), "no JSON"),
  "that decodes to an event of another channel": delta(12, 11, event(price(11)), event(price(12), { channel: "other" })),
  "in an unknown format": step(12).replace('"fossil"', '"brotli"'),
};

for (const [description, frame] of Object.entries(INVALID_DELTAS)) {
  test(`delta ${description} is requested again and not passed on`, async (t) => {
    const { socket, received, deltas } = await subscribed(t, "private-news");
    const deliver = (text) => socket.deliver(text.replace('"channel":"news"', '"channel":"private-news"'));
    const of = (number) => event(price(number), { channel: "private-news" });
    deliver(full(11, price(11)));
    deliver(frame);
    // Numbered events that the server sent before the resync request are dropped: they arrive again.
    deliver(full(14, price(14)));
    deliver(step(15));
    assert.deepEqual(received(), [tick(11)]);
    const request = await socket.sent.next();
    const data = { auth: "for 1.1", channel_data: '{"user_id":"ann"}', channel: "private-news", delta: true };
    const resume = { epoch: 7, seq: 11, socket_id: [] };
    assert.deepEqual(request, { event: "pusher:subscribe", data: { ...data, resume } });
    deliver(full(16, price(16)));

    socket.succeeded("private-news", { epoch: 7, seq: 11, resumed: true });
    deliver(full(12, price(12)));
    socket.deliver(delta(13, 12, of(12), of(13)).replace('"channel":"news"', '"channel":"private-news"'));
    assert.deepEqual(received(), [12, 13].map(tick));
    const { resyncs, resumed, restarted } = deltas.stats();
    assert.deepEqual({ resyncs, resumed, restarted }, { resyncs: 1, resumed: 1, restarted: 0 });
  });
}

test("resync that the server cannot resume emits fanfare:restart", async (t) => {
  const { socket, received } = await subscribed(t);
  socket.deliver(step(13));
  await socket.sent.next();
  socket.succeeded("news", { epoch: 7, seq: 20, resumed: false });
  socket.deliver(full(21, price(21)));
  assert.deepEqual(received(), [RESTART, tick(21)]);
});

test("resync requests are sent at most once per second", async (t) => {
  const { socket, received } = await subscribed(t);
  const times = [];
  for (let round = 0; round < 2; round += 1) {
    socket.deliver(step(13));
    socket.deliver(step(14));
    await socket.sent.next();
    times.push(performance.now());
    socket.succeeded("news", { epoch: 7, seq: 10, resumed: true });
  }
  assert.ok(times[1] - times[0] >= 950, `second request after ${times[1] - times[0]} ms`);
  assert.ok(socket.sent.isEmpty);
  socket.deliver(full(11, price(11)));
  assert.deepEqual(received(), [tick(11)]);
});

test("resync without server resume requests a full event and emits fanfare:restart", async (t) => {
  const { socket, received } = await subscribed(t, "news", { data: {} });
  socket.deliver(full(11, price(11)));
  socket.deliver(step(13));
  const request = await socket.sent.next();
  assert.deepEqual(request, { event: "pusher:delta_sync_error", data: { channel: "news" } });
  socket.deliver(full(14, price(14)));
  socket.deliver(step(15));
  assert.deepEqual(received(), [tick(11), RESTART, tick(14), tick(15)]);
});

test("rejected resync continues with full events", async (t) => {
  const { socket, received } = await subscribed(t);
  socket.deliver(step(13));
  await socket.sent.next();
  const data = { type: "InvalidResume", error: "seq", status: 400 };
  socket.deliver({ event: "pusher:subscription_error", channel: "news", data });
  const { event: requested } = await socket.sent.next();
  assert.equal(requested, "pusher:delta_sync_error");
  socket.deliver(full(14, price(14)));
  assert.deepEqual(received(), [RESTART, tick(14)]);
});

test("resync reply after unsubscribe does not confirm the next subscription", async (t) => {
  const { socket, pusher, received } = await subscribed(t);
  socket.deliver(step(13));
  await socket.sent.next();
  pusher.unsubscribe("news");
  const confirmations = [];
  pusher.subscribe("news").bind("pusher:subscription_succeeded", (data) => confirmations.push(data));
  assert.equal((await socket.sent.next()).event, "pusher:unsubscribe");
  assert.equal((await socket.sent.next()).data.resume, true);
  socket.succeeded("news", { epoch: 7, seq: 10, resumed: true });
  socket.deliver(step(14));
  socket.succeeded("news", { epoch: 7, seq: 14, resumed: false });
  assert.deepEqual(confirmations, [{ epoch: 7, seq: 14, resumed: false }]);
  socket.deliver(full(15, price(15)));
  socket.deliver(step(16));
  assert.ok(socket.sent.isEmpty);
  assert.deepEqual(received(), []);
});

test("connection lost before the resync request claims no bases", async (t) => {
  const client = await subscribed(t);
  for (const first of [11, 14]) {
    client.socket.deliver(full(first, price(first)));
    client.socket.deliver(step(first + 2));
    // The second resync waits for the interval, and the connection is lost before.
    if (first === 14) break;
    await client.socket.sent.next();
    client.socket.succeeded("news", { epoch: 7, seq: 11, resumed: true });
  }
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 14, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 14, from: 14, socket_id: ["1.1"] });
});

test("reconnect ends pending resyncs of the old connection", async (t) => {
  const client = await subscribed(t);
  client.socket.deliver(step(13));
  await client.socket.sent.next();
  client.received();
  const { socket, request } = await reconnect(client, "2.2", { epoch: 7, seq: 10, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 10, from: 10, socket_id: ["1.1"] });
  socket.deliver(full(11, price(11)));
  const succeeded = ["pusher:subscription_succeeded", { epoch: 7, seq: 10, resumed: true }];
  assert.deepEqual(client.received(), [succeeded, tick(11)]);
});
