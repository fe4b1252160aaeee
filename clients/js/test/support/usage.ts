// Use in a TypeScript application. Compiled, never run.

import Pusher from "pusher-js";
import { type DeltaStats, type RestartEvent, withDeltas } from "fanfare-js";

const pusher = new Pusher("key", { cluster: "" });
const deltas = withDeltas(pusher, { algorithm: "xdelta3", channels: (name) => name !== "chat" });
const restart: RestartEvent = "fanfare:restart";
pusher.subscribe("news").bind(restart, () => deltas.stats("news").saved.toFixed());
export const stats: DeltaStats = deltas.stats();

// @ts-expect-error: unknown format.
withDeltas(pusher, { algorithm: "brotli" });
// @ts-expect-error: not a client of pusher-js.
withDeltas({});
