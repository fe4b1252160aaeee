import assert from "node:assert/strict";
import { test } from "node:test";
import { delta, event, full, withMembers } from "./support/frames.js";
import { subscribed } from "./support/server.js";

const price = (number) => ({ asset: "BTC", text: "more of the same", number });
const tick = (number) => ["tick", price(number)];
const step = (number, more) => delta(number, number - 1, event(price(number - 1)), event(price(number)), more);
const RESTART = ["fanfare:restart", {}];

/** Drops the connection, and answers the next one's subscription. */
async function reconnect({ socket, accept }, id, data) {
  socket.drop();
  const next = await accept(id);
  const request = await next.sent.next();
  next.succeeded("news", data);
  return { socket: next, request };
}

test("after a reconnect the client names what it has had", async (t) => {
  const client = await subscribed(t);
  client.socket.say(full(11, price(11)));
  client.socket.say(step(12));
  client.socket.say(withMembers(event(price(13)), { __seq: 13 }));
  client.told();

  const { socket, request } = await reconnect(client, "2.2", { epoch: 7, seq: 13, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 13, from: 10, socket_id: ["1.1"] });
  // The base is the one of the old connection.
  socket.say(delta(14, 12, event(price(12)), event(price(14))));
  const succeeded = ["pusher:subscription_succeeded", { epoch: 7, seq: 13, resumed: true }];
  assert.deepEqual(client.told(), [succeeded, tick(14)]);
  assert.equal(client.deltas.stats().resumed, 1);
});

test("who cannot resume starts anew, and the application is told", async (t) => {
  const client = await subscribed(t);
  client.socket.say(full(11, price(11)));
  client.told();
  const first = await reconnect(client, "2.2", { epoch: 8, seq: 40, resumed: false });
  assert.deepEqual(client.told().at(-1), RESTART);
  first.socket.say(full(41, price(41)));
  first.socket.say(step(42));
  assert.deepEqual(client.told(), [41, 42].map(tick));

  const { request } = await reconnect({ ...client, ...first }, "3.3", { epoch: 8, seq: 42, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 8, seq: 42, from: 40, socket_id: ["1.1", "2.2"] });
  assert.deepEqual(client.deltas.stats().restarted, 1);
});

test("the position moves without events too, and with the epoch", async (t) => {
  const client = await subscribed(t);
  const position = (epoch, seq) =>
    client.socket.say({ event: "pusher:position", channel: "news", data: { epoch, seq } });
  client.socket.say(full(11, price(11)));
  position(7, 20);
  // Older than what is known: the newest counts.
  position(7, 19);
  let next = await reconnect(client, "2.2", { epoch: 7, seq: 20, resumed: true });
  assert.deepEqual(next.request.data.resume, { epoch: 7, seq: 20, from: 10, socket_id: ["1.1"] });

  next.socket.say({ event: "pusher:position", channel: "news", data: { epoch: 9, seq: 3 } });
  next = await reconnect({ ...client, ...next }, "3.3", { epoch: 9, seq: 3, resumed: true });
  assert.deepEqual(next.request.data.resume, { epoch: 9, seq: 3, from: 3, socket_id: ["1.1", "2.2"] });
});

test("a channel begins with its first event", async (t) => {
  const client = await subscribed(t, "news", { data: { epoch: 0, seq: 0, resumed: false } });
  const first = 2 ** 31 - 5;
  const data = { epoch: 7, seq: first - 1 };
  client.socket.say({ event: "pusher:position", channel: "news", data });
  client.socket.say(full(first, price(first)));
  client.socket.say(step(first + 1));
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: first + 1, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: first + 1, from: first - 1, socket_id: ["1.1"] });
});

test("the server may say that something was missed", async (t) => {
  const { socket, told } = await subscribed(t);
  socket.say(full(11, price(11)));
  const data = { epoch: 7, seq: 15, missed: true };
  socket.say({ event: "pusher:position", channel: "news", data });
  // Its base was forgotten.
  socket.say(step(16));
  const { resume } = (await socket.sent.next()).data;
  assert.deepEqual(resume, { epoch: 7, seq: 15, socket_id: [] });
  assert.deepEqual(told(), [tick(11), RESTART]);
});

test("numbers begin again at 2^31", async (t) => {
  const last = 2 ** 31 - 1;
  const client = await subscribed(t, "news", { data: { epoch: 7, seq: last, resumed: false } });
  client.socket.say(full(0, price(0)));
  client.socket.say(step(1));
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 1, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 1, from: last, socket_id: ["1.1"] });
});

test("eight former connections are named, the newest", async (t) => {
  let client = await subscribed(t);
  for (let number = 2; number <= 11; number += 1) {
    const next = await reconnect(client, `${number}.1`, { epoch: 7, seq: 10, resumed: true });
    client = { ...client, ...next };
  }
  const ids = [3, 4, 5, 6, 7, 8, 9, 10].map((number) => `${number}.1`);
  assert.deepEqual(client.request.data.resume.socket_id, ids);
});

test("a base that had to go is not claimed", async (t) => {
  const client = await subscribed(t);
  for (let at = 0; at < 1001; at += 1) {
    const markers = { __delta_seq: 11 + at, __conflation_key: `key ${at}` };
    client.socket.say(withMembers(event(price(at)), markers));
  }
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 1011, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 1011, from: 11, socket_id: ["1.1"] });
});

const UNFIT = {
  "without its base": step(13),
  "that does not decode": delta(12, 11, "another base, longer than ours".repeat(20), event(price(12))),
  "that makes no event": delta(12, 11, event(price(11)), "no JSON"),
  "that makes another channel's event": delta(12, 11, event(price(11)), event(price(12), { channel: "other" })),
  "in an unknown format": step(12).replace('"fossil"', '"brotli"'),
};

for (const [what, frame] of Object.entries(UNFIT)) {
  test(`a delta ${what} is asked for again, unseen`, async (t) => {
    const { socket, told, deltas } = await subscribed(t, "private-news");
    const say = (text) => socket.say(text.replace('"channel":"news"', '"channel":"private-news"'));
    const of = (number) => event(price(number), { channel: "private-news" });
    say(full(11, price(11)));
    say(frame);
    // What the server had sent before it heard of it comes again, but for what has no number.
    say(full(14, price(14)));
    say(step(15));
    assert.deepEqual(told(), [tick(11)]);
    const request = await socket.sent.next();
    const data = { auth: "for 1.1", channel_data: '{"user_id":"ann"}', channel: "private-news", delta: true };
    const resume = { epoch: 7, seq: 11, socket_id: [] };
    assert.deepEqual(request, { event: "pusher:subscribe", data: { ...data, resume } });
    say(full(16, price(16)));

    socket.succeeded("private-news", { epoch: 7, seq: 11, resumed: true });
    say(full(12, price(12)));
    socket.say(delta(13, 12, of(12), of(13)).replace('"channel":"news"', '"channel":"private-news"'));
    assert.deepEqual(told(), [12, 13].map(tick));
    const { resyncs, resumed, restarted } = deltas.stats();
    assert.deepEqual({ resyncs, resumed, restarted }, { resyncs: 1, resumed: 1, restarted: 0 });
  });
}

test("a server that cannot repeat what did not decode says so, and so do we", async (t) => {
  const { socket, told } = await subscribed(t);
  socket.say(step(13));
  await socket.sent.next();
  socket.succeeded("news", { epoch: 7, seq: 20, resumed: false });
  socket.say(full(21, price(21)));
  assert.deepEqual(told(), [RESTART, tick(21)]);
});

test("it is asked for once a second at most", async (t) => {
  const { socket, told } = await subscribed(t);
  const times = [];
  for (let round = 0; round < 2; round += 1) {
    socket.say(step(13));
    socket.say(step(14));
    await socket.sent.next();
    times.push(performance.now());
    socket.succeeded("news", { epoch: 7, seq: 10, resumed: true });
  }
  assert.ok(times[1] - times[0] >= 950, `again after ${times[1] - times[0]} ms`);
  assert.ok(socket.sent.isEmpty);
  socket.say(full(11, price(11)));
  assert.deepEqual(told(), [tick(11)]);
});

test("a server without resume is asked for a full event, and the application is told", async (t) => {
  const { socket, told } = await subscribed(t, "news", { data: {} });
  socket.say(full(11, price(11)));
  socket.say(step(13));
  const request = await socket.sent.next();
  assert.deepEqual(request, { event: "pusher:delta_sync_error", data: { channel: "news" } });
  socket.say(full(14, price(14)));
  socket.say(step(15));
  assert.deepEqual(told(), [tick(11), RESTART, tick(14), tick(15)]);
});

test("a subscription that is refused when repeated goes on with full events", async (t) => {
  const { socket, told } = await subscribed(t);
  socket.say(step(13));
  await socket.sent.next();
  const data = { type: "InvalidResume", error: "seq", status: 400 };
  socket.say({ event: "pusher:subscription_error", channel: "news", data });
  const { event: asked } = await socket.sent.next();
  assert.equal(asked, "pusher:delta_sync_error");
  socket.say(full(14, price(14)));
  assert.deepEqual(told(), [RESTART, tick(14)]);
});

test("an answer that comes after the application has unsubscribed is not its successor's", async (t) => {
  const { socket, pusher, told } = await subscribed(t);
  socket.say(step(13));
  await socket.sent.next();
  pusher.unsubscribe("news");
  const answers = [];
  pusher.subscribe("news").bind("pusher:subscription_succeeded", (data) => answers.push(data));
  assert.equal((await socket.sent.next()).event, "pusher:unsubscribe");
  assert.equal((await socket.sent.next()).data.resume, true);
  socket.succeeded("news", { epoch: 7, seq: 10, resumed: true });
  socket.say(step(14));
  socket.succeeded("news", { epoch: 7, seq: 14, resumed: false });
  assert.deepEqual(answers, [{ epoch: 7, seq: 14, resumed: false }]);
  socket.say(full(15, price(15)));
  socket.say(step(16));
  assert.ok(socket.sent.isEmpty);
  assert.deepEqual(told(), []);
});

test("who loses the connection before it could ask claims no bases", async (t) => {
  const client = await subscribed(t);
  for (const first of [11, 14]) {
    client.socket.say(full(first, price(first)));
    client.socket.say(step(first + 2));
    // The second time it has to wait, and does not get to it.
    if (first === 14) break;
    await client.socket.sent.next();
    client.socket.succeeded("news", { epoch: 7, seq: 11, resumed: true });
  }
  const { request } = await reconnect(client, "2.2", { epoch: 7, seq: 14, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 14, from: 14, socket_id: ["1.1"] });
});

test("a reconnect ends what was asked on the old connection", async (t) => {
  const client = await subscribed(t);
  client.socket.say(step(13));
  await client.socket.sent.next();
  client.told();
  const { socket, request } = await reconnect(client, "2.2", { epoch: 7, seq: 10, resumed: true });
  assert.deepEqual(request.data.resume, { epoch: 7, seq: 10, from: 10, socket_id: ["1.1"] });
  socket.say(full(11, price(11)));
  const succeeded = ["pusher:subscription_succeeded", { epoch: 7, seq: 10, resumed: true }];
  assert.deepEqual(client.told(), [succeeded, tick(11)]);
});
