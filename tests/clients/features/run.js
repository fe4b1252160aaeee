// Runs the features sequentially, each with both libraries at the same time.

import * as channels from "./channels.js";
import { libraries } from "./libraries.js";
import { Site } from "./site.js";
import * as users from "./users.js";

/** All features, in the order of the page. */
export const FEATURES = [
  {
    id: "public",
    title: "Public channel",
    about: "a batch from the backend, in order, to all subscribers",
    run: channels.publicChannel,
  },
  {
    id: "private",
    title: "Private channel",
    about: "requires a valid signature",
    run: channels.privateChannel,
  },
  {
    id: "encrypted",
    title: "Encrypted channel",
    about: "encrypted by the backend, decrypted by the client",
    run: channels.encryptedChannel,
  },
  {
    id: "cache",
    title: "Cache channel",
    about: "cache miss for the first subscriber, the last event for later ones",
    run: channels.cacheChannel,
  },
  {
    id: "presence",
    title: "Presence channel",
    about: "members, joins and leaves; bob has two tabs",
    run: channels.presenceChannel,
  },
  {
    id: "client_events",
    title: "Client events",
    about: "to all subscribers but the sender (whispers)",
    run: channels.clientEvents,
  },
  {
    id: "client_events_of_members",
    title: "Client events of members",
    about: "with the user id of the sender, from the server",
    run: channels.clientEventsOfMembers,
  },
  {
    id: "to_others",
    title: "To others",
    about: "the backend excludes the socket of the sender",
    run: channels.toOthers,
  },
  {
    id: "subscription_count",
    title: "Subscription count",
    about: "ann receives counts while bob joins and leaves",
    run: channels.subscriptionCount,
  },
  {
    id: "sign_in",
    title: "Sign-in",
    about: "the connection is authenticated as a user",
    run: users.signIn,
  },
  {
    id: "presence_of_signed_in",
    title: "Presence of signed-in users",
    about: "members from the sign-in, without channel_data",
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
    about: "to every connection of ann, and to no others",
    run: users.serverToUser,
  },
  {
    id: "terminate",
    title: "Terminate connections",
    about: "ann's connections are closed for good, bob's stays open",
    run: users.terminate,
  },
];

export const LIBRARIES = Object.keys(libraries);

/** Log lines of pusher-js in the report of a failure. */
const LOG_LINES_MAX = 60;

/**
 * Calls and awaits `report({ library, feature, seen | error, words })` for each result.
 * `words` are the last log lines of pusher-js. `environment`: see `Site`.
 */
export async function runAll(environment, report) {
  for (const { id, run } of FEATURES) {
    const words = captureLog(environment.Pusher);
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

/** Captures the log of pusher-js, which all clients share. Names of users and channels identify them. */
function captureLog(Pusher) {
  const words = [];
  Pusher.log = (text) => {
    // Every connection begins with these lines.
    if (/"Connecting"|"initialized -> connecting"/.test(text)) return;
    words.push(text);
    if (words.length > LOG_LINES_MAX) words.shift();
  };
  return words;
}
