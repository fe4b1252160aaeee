// As an application in TypeScript uses it; compiled, never run.

import Pusher from "pusher-js";
import { type DeltaStats, type RestartEvent, withDeltas } from "fanfare-js";

const pusher = new Pusher("key", { cluster: "" });
const deltas = withDeltas(pusher, { algorithm: "xdelta3", channels: (name) => name !== "chat" });
const restart: RestartEvent = "fanfare:restart";
pusher.subscribe("news").bind(restart, () => deltas.stats("news").saved.toFixed());
export const stats: DeltaStats = deltas.stats();

// @ts-expect-error: there is no such format.
withDeltas(pusher, { algorithm: "brotli" });
// @ts-expect-error: a client is needed.
withDeltas({});
