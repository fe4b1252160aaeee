// The features of signed-in users. Laravel Echo does not wrap them, so that both libraries
// use their pusher-js client.

import { join } from "./channels.js";
import { Log, within } from "./log.js";

export async function signIn(site) {
  const [ann] = await signedIn(site, "ann");
  return { ann: ann.user.user_data };
}

/** Subscribes without `channel_data`: the member is the signed-in user. */
export async function presenceOfSignedIn(site) {
  const [ann, bob] = await site.people("ann", "bob");
  for (const person of [ann, bob]) await signInWith(site.pusherOf(person));
  const anns = await join(site, ann, "members-only");
  const bobs = await join(site, bob, "members-only");
  return { here: [anns.here, bobs.here] };
}

/** Wanda watches victor and vera, and victor has two tabs. */
export async function watchlist(site) {
  const [wanda] = (await site.people("wanda")).map((person) => site.pusherOf(person));
  const log = new Log("wanda, who watches");
  for (const name of ["online", "offline"]) {
    wanda.user.watchlist.bind(name, ({ user_ids }) => log.record(name, [...user_ids].sort()));
  }
  await signInWith(wanda);
  await log.until(1);
  const [tab] = await signedIn(site, "victor");
  await log.until(2);
  const [otherTab] = await signedIn(site, "victor");
  tab.disconnect();
  await signedIn(site, "vera");
  await log.until(3);
  otherTab.disconnect();
  await log.until(4);
  return { wanda: log.entries };
}

export async function serverToUser(site) {
  const [tab, otherTab, bob] = await signedIn(site, "ann", "ann", "bob");
  const listen = (pusher) => {
    const log = new Log("a user");
    for (const event of ["greeting", "after"]) pusher.user.bind(event, (data) => log.record(event, data));
    return log;
  };
  const logs = { tab: listen(tab), otherTab: listen(otherTab), bob: listen(bob) };
  await site.backend("sendToUser", site.own("ann"), "greeting", { text: "hello, ann" });
  await site.backend("sendToUser", site.own("bob"), "after", {});
  await Promise.all(Object.values(logs).map((log) => log.until(1)));
  return Object.fromEntries(Object.entries(logs).map(([name, log]) => [name, log.entries]));
}

/** The server closes all connections of the user for good, and no others. */
export async function terminate(site) {
  const [tab, otherTab, bob] = await signedIn(site, "ann", "ann", "bob");
  const log = new Log("terminated connections");
  for (const pusher of [tab, otherTab]) {
    let code;
    pusher.connection.bind("error", ({ error }) => (code = error?.data?.code));
    pusher.connection.bind("disconnected", () => log.record("disconnected", code));
  }
  await site.backend("terminateUserConnections", site.own("ann"));
  await log.until(2);
  return { ann: log.entries, bob: bob.connection.state };
}

/** Connects and signs in. Returns the pusher-js clients, subscribed to their user channels. */
async function signedIn(site, ...names) {
  const pushers = (await site.people(...names)).map((person) => site.pusherOf(person));
  await Promise.all(pushers.map(signInWith));
  return pushers;
}

async function signInWith(pusher) {
  const refused = new Promise((_, reject) => {
    pusher.user.bind("pusher:signin_error", (error) => reject(new Error(JSON.stringify(error))));
  });
  pusher.signin();
  await within(Promise.race([pusher.user.signinDonePromise, refused]), "answer to the sign-in");
  const channel = pusher.user.serverToUserChannel;
  if (!channel) throw new Error("the sign-in failed");
  await within(
    new Promise((resolve) => channel.bind("pusher:subscription_succeeded", resolve)),
    `subscription to ${channel.name}`,
  );
}
