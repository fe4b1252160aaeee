// The third-party decoders of JavaScript clients: npm `fossil-delta` and
// `@ably/vcdiff-decoder`.
//
//   node decoders.js
//
// Command, all bytes in base64
//   {"cmd":"decode","algorithm":"fossil"|"xdelta3","base":…,"delta":…}
// Reports
//   {"type":"decoded","target":…}
//   {"type":"failed","error":…}

import vcdiff from "@ably/vcdiff-decoder";
import { applyDelta } from "fossil-delta";
import { print, serveCommands } from "./json_lines.js";

const DECODERS = {
  fossil: (base, delta) => applyDelta(base, delta),
  xdelta3: (base, delta) => vcdiff.decode(delta, base),
};

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));

await serveCommands({
  decode({ algorithm, base, delta }) {
    try {
      const target = DECODERS[algorithm](bytes(base), bytes(delta));
      print({ type: "decoded", target: Buffer.from(target).toString("base64") });
    } catch (error) {
      print({ type: "failed", error: String(error) });
    }
  },
});
