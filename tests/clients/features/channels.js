// The features of channels. Each returns the received events, which the test compares
// with the expected ones. A later event shows that an unexpected one did not arrive.

import { Log, within } from "./log.js";

export async function publicChannel(site) {
  const events = ["first", "App\\Events\\Shipped"];
  const [ann, bob] = await listeners(site, "public", "news", events);
  const channel = site.channelName("public", "news");
  await site.backend("triggerBatch", [
    { channel, name: events[0], data: { text: 'čeština "♪"' } },
    { channel, name: events[1], data: { number: 2 } },
  ]);
  return received({ ann, bob }, 2);
}

/** Eve subscribes with an invalid signature. */
export async function privateChannel(site) {
  const [ann, bob] = await listeners(site, "private", "room", ["secret"]);
  const [eve] = await site.people("eve");
  const rejected = new Promise((resolve) => site.channel(eve, "private", "room").refused(resolve));
  const { status } = await within(rejected, "subscription error of eve");
  await site.publish("private", "room", "secret", { number: 1 });
  return { ...(await received({ ann, bob }, 1)), eve: status };
}

export async function encryptedChannel(site) {
  const [ann, bob] = await listeners(site, "encrypted", "vault", ["sealed"]);
  await site.publish("encrypted", "vault", "sealed", { number: 1 });
  const channel = site.channelName("encrypted", "vault");
  await site.backend("triggerBatch", [{ channel, name: "sealed", data: { number: 2 } }]);
  return received({ ann, bob }, 2);
}

/** Bob subscribes later, and receives the last price at once. */
export async function cacheChannel(site) {
  const events = ["pusher:cache_miss", "price"];
  const listen = async (name) => {
    const [person] = await site.people(name);
    return site.listen(person, "private", "cache-price", events);
  };
  const ann = await listen("ann");
  await ann.log.until(1);
  await site.publish("private", "cache-price", "price", { euro: 1 });
  await ann.log.until(2);
  const bob = await listen("bob");
  await bob.log.until(1);
  await site.publish("private", "cache-price", "price", { euro: 2 });
  await bob.log.until(2);
  await ann.log.until(3);
  return { ann: ann.log.entries, bob: bob.log.entries };
}

/** Bob has two tabs: the first one adds him to the channel, the last one removes him. */
export async function presenceChannel(site) {
  const [ann, tab, otherTab, carol] = await site.people("ann", "bob", "bob", "carol");
  const log = new Log("ann in the lobby");
  const lobby = await join(site, ann, "lobby");
  lobby.channel.joining(({ name }) => log.record("joined", name));
  lobby.channel.leaving(({ name }) => log.record("left", name));
  const bobs = await join(site, tab, "lobby");
  await log.until(1);
  const bobsAgain = await join(site, otherTab, "lobby");
  bobs.channel.leave();
  const carols = await join(site, carol, "lobby");
  await log.until(2);
  const users = await usersOf(site, "lobby");
  site.pusherOf(otherTab).disconnect();
  await log.until(3);
  carols.channel.leave();
  await log.until(4);
  const here = [lobby, bobs, bobsAgain, carols].map(({ here }) => here);
  return { here, users, ann: log.entries };
}

export async function clientEvents(site) {
  const [ann, bob] = await listeners(site, "private", "chat", ["after"]);
  for (const { onWhisper, log } of [ann, bob]) onWhisper("typing", (data) => log.record("typing", data));
  ann.whisper("typing", { by: "ann" });
  await bob.log.until(1);
  await site.publish("private", "chat", "after", {});
  await ann.log.until(1);
  await bob.log.until(2);
  return { ann: ann.log.entries, bob: bob.log.entries };
}

/** The server sets the user id of the sender. The sender cannot. */
export async function clientEventsOfMembers(site) {
  const [ann, bob] = await listeners(site, "presence", "chat", []);
  bob.onWhisper("typing", (data, { user_id }) => bob.log.record("typing", data, user_id));
  ann.whisper("typing", { user_id: "somebody else" });
  await bob.log.until(1);
  return { bob: bob.log.entries };
}

/** The backend excludes a socket from an event: `socket_id`, Laravel's "to others". */
export async function toOthers(site) {
  const people = await site.people("ann", "bob");
  const listen = (person) => site.listen(person, "public", "posts", ["others", "all"]);
  const [ann, bob] = await Promise.all(people.map(listen));
  const { socket_id } = site.pusherOf(people[0]).connection;
  await site.publish("public", "posts", "others", {}, { socket_id });
  await site.publish("public", "posts", "all", {});
  await ann.log.until(1);
  await bob.log.until(2);
  return { ann: ann.log.entries, bob: bob.log.entries };
}

export async function subscriptionCount(site) {
  const [ann, bob] = await site.people("ann", "bob");
  const log = new Log("ann, who counts");
  const count = ({ subscription_count }) => log.record(subscription_count);
  site.channel(ann, "public", "counted").on("pusher:subscription_count", count);
  await log.until(1);
  const bobs = site.channel(bob, "public", "counted");
  await log.until(2);
  bobs.leave();
  await log.until(3);
  return { ann: log.entries.flat() };
}

/** Subscribes Ann and Bob. */
async function listeners(site, kind, name, events) {
  const people = await site.people("ann", "bob");
  return Promise.all(people.map((person) => site.listen(person, kind, name, events)));
}

/** The entries of all logs, once each has `count` entries. */
async function received(people, count) {
  const logs = Object.entries(people).map(([name, { log }]) => [name, log]);
  await Promise.all(logs.map(([, log]) => log.until(count)));
  return Object.fromEntries(logs.map(([name, log]) => [name, log.entries]));
}

/** Subscribes to a presence channel. `here`: the names of the members at that time. */
export async function join(site, person, name) {
  const channel = site.channel(person, "presence", name);
  const members = await within(
    new Promise((resolve, reject) => {
      channel.here(resolve);
      channel.refused((error) => reject(new Error(`presence ${name}: ${JSON.stringify(error)}`)));
    }),
    `subscription to presence ${name}`,
  );
  return { channel, here: members.map((info) => info.name).sort() };
}

/** The user ids of the members, from the HTTP API. */
async function usersOf(site, name) {
  const channel = site.channelName("presence", name);
  const { users } = await site.backend("get", { path: `/channels/${channel}/users` });
  return users.map(({ id }) => id).sort();
}
