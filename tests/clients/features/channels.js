// The features of channels. Each returns what it saw; the test knows what that
// must be. What must not come is shown by what comes after it.

import { Log, within } from "./log.js";

export async function publicChannel(site) {
  const events = ["first", "App\\Events\\Shipped"];
  const [ann, bob] = await listeners(site, "public", "news", events);
  const channel = site.channelName("public", "news");
  await site.backend("triggerBatch", [
    { channel, name: events[0], data: { text: 'čeština "♪"' } },
    { channel, name: events[1], data: { number: 2 } },
  ]);
  return heard({ ann, bob }, 2);
}

/** Eve's signature is a wrong one. */
export async function privateChannel(site) {
  const [ann, bob] = await listeners(site, "private", "room", ["secret"]);
  const [eve] = await site.people("eve");
  const refused = new Promise((resolve) => site.channel(eve, "private", "room").refused(resolve));
  const { status } = await within(refused, "refusal of eve");
  await site.publish("private", "room", "secret", { number: 1 });
  return { ...(await heard({ ann, bob }, 1)), eve: status };
}

export async function encryptedChannel(site) {
  const [ann, bob] = await listeners(site, "encrypted", "vault", ["sealed"]);
  await site.publish("encrypted", "vault", "sealed", { number: 1 });
  const channel = site.channelName("encrypted", "vault");
  await site.backend("triggerBatch", [{ channel, name: "sealed", data: { number: 2 } }]);
  return heard({ ann, bob }, 2);
}

/** Bob comes later, and has the last price without asking. */
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
  return { ann: ann.log.heard, bob: bob.log.heard };
}

/** Bob has two tabs: he comes with the first and goes with the last. */
export async function presenceChannel(site) {
  const [ann, tab, otherTab, carol] = await site.people("ann", "bob", "bob", "carol");
  const log = new Log("ann in the lobby");
  const lobby = await join(site, ann, "lobby");
  lobby.channel.joining(({ name }) => log.note("joined", name));
  lobby.channel.leaving(({ name }) => log.note("left", name));
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
  return { here, users, ann: log.heard };
}

export async function clientEvents(site) {
  const [ann, bob] = await listeners(site, "private", "chat", ["after"]);
  for (const { onWhisper, log } of [ann, bob]) onWhisper("typing", (data) => log.note("typing", data));
  ann.whisper("typing", { by: "ann" });
  await bob.log.until(1);
  await site.publish("private", "chat", "after", {});
  await ann.log.until(1);
  await bob.log.until(2);
  return { ann: ann.log.heard, bob: bob.log.heard };
}

/** The server says who sent it, not the sender. */
export async function clientEventsOfMembers(site) {
  const [ann, bob] = await listeners(site, "presence", "chat", []);
  bob.onWhisper("typing", (data, { user_id }) => bob.log.note("typing", data, user_id));
  ann.whisper("typing", { user_id: "somebody else" });
  await bob.log.until(1);
  return { bob: bob.log.heard };
}

/** The backend names the socket for which it publishes: "to others". */
export async function toOthers(site) {
  const people = await site.people("ann", "bob");
  const listen = (person) => site.listen(person, "public", "posts", ["others", "all"]);
  const [ann, bob] = await Promise.all(people.map(listen));
  const { socket_id } = site.pusherOf(people[0]).connection;
  await site.publish("public", "posts", "others", {}, { socket_id });
  await site.publish("public", "posts", "all", {});
  await ann.log.until(1);
  await bob.log.until(2);
  return { ann: ann.log.heard, bob: bob.log.heard };
}

export async function subscriptionCount(site) {
  const [ann, bob] = await site.people("ann", "bob");
  const log = new Log("ann, who counts");
  const count = ({ subscription_count }) => log.note(subscription_count);
  site.channel(ann, "public", "counted").on("pusher:subscription_count", count);
  await log.until(1);
  const bobs = site.channel(bob, "public", "counted");
  await log.until(2);
  bobs.leave();
  await log.until(3);
  return { ann: log.heard.flat() };
}

/** Two people who have subscribed. */
async function listeners(site, kind, name, events) {
  const people = await site.people("ann", "bob");
  return Promise.all(people.map((person) => site.listen(person, kind, name, events)));
}

/** What everybody heard, once each has heard so many things. */
async function heard(people, count) {
  const logs = Object.entries(people).map(([name, { log }]) => [name, log]);
  await Promise.all(logs.map(([, log]) => log.until(count)));
  return Object.fromEntries(logs.map(([name, log]) => [name, log.heard]));
}

/** A presence channel, and the names of those who were there at that moment. */
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

/** The same, as a backend asks for it. */
async function usersOf(site, name) {
  const channel = site.channelName("presence", name);
  const { users } = await site.backend("get", { path: `/channels/${channel}/users` });
  return users.map(({ id }) => id).sort();
}
