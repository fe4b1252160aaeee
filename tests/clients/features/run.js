// Every feature, one after the other, with both libraries at once.

import * as channels from "./channels.js";
import { libraries } from "./libraries.js";
import { Site } from "./site.js";
import * as users from "./users.js";

/** In the order of the page. */
export const FEATURES = [
  {
    id: "public",
    title: "Public channel",
    about: "a batch from the backend, in order, to everybody",
    run: channels.publicChannel,
  },
  {
    id: "private",
    title: "Private channel",
    about: "for those whose signature is right",
    run: channels.privateChannel,
  },
  {
    id: "encrypted",
    title: "Encrypted channel",
    about: "sealed by the backend, opened by the client",
    run: channels.encryptedChannel,
  },
  {
    id: "cache",
    title: "Cache channel",
    about: "nothing yet, then the last event for whoever comes later",
    run: channels.cacheChannel,
  },
  {
    id: "presence",
    title: "Presence channel",
    about: "who is here, who comes and goes; bob has two tabs",
    run: channels.presenceChannel,
  },
  {
    id: "client_events",
    title: "Client events",
    about: "to all but the sender (whispers)",
    run: channels.clientEvents,
  },
  {
    id: "client_events_of_members",
    title: "Client events of members",
    about: "with the user that the server knows",
    run: channels.clientEventsOfMembers,
  },
  {
    id: "to_others",
    title: "To others",
    about: "all but the socket for which the backend publishes",
    run: channels.toOthers,
  },
  {
    id: "subscription_count",
    title: "Subscription count",
    about: "ann counts while bob comes and goes",
    run: channels.subscriptionCount,
  },
  {
    id: "sign_in",
    title: "Sign-in",
    about: "the connection belongs to a user",
    run: users.signIn,
  },
  {
    id: "presence_of_signed_in",
    title: "Presence of signed-in users",
    about: "members known by their sign-in alone",
    run: users.presenceOfSignedIn,
  },
  {
    id: "watchlist",
    title: "Watchlist",
    about: "wanda watches victor, in two tabs, and vera",
    run: users.watchlist,
  },
  {
    id: "server_to_user",
    title: "Server to user",
    about: "to every connection of ann, and to nobody else",
    run: users.serverToUser,
  },
  {
    id: "terminate",
    title: "Terminate connections",
    about: "all of ann's are closed for good; bob stays",
    run: users.terminate,
  },
];

export const LIBRARIES = Object.keys(libraries);

/** What pusher-js says of itself, kept for the report of a failure. */
const WORDS_MAX = 60;

/**
 * Calls `report({ library, feature, seen | error, words })` for each, and waits
 * for it. `environment` is that of `Site`.
 */
export async function runAll(environment, report) {
  for (const { id, run } of FEATURES) {
    const words = listenTo(environment.Pusher);
    await Promise.all(
      LIBRARIES.map(async (library) => {
        const outcome = await runOne(new Site(environment, library), run);
        await report({ library, feature: id, ...outcome, words });
      }),
    );
  }
}

async function runOne(site, run) {
  try {
    return { seen: await run(site) };
  } catch (error) {
    return { error: String(error) };
  } finally {
    site.close();
  }
}

/** It has one log for all clients: names of users and channels tell whose it is. */
function listenTo(Pusher) {
  const words = [];
  Pusher.log = (text) => {
    // Whatever happens, it begins with these.
    if (/"Connecting"|"initialized -> connecting"/.test(text)) return;
    words.push(text);
    if (words.length > WORDS_MAX) words.shift();
  };
  return words;
}
