// Frames in the format of the server (protocol.md 3.3 and 3.4).

import { createDelta } from "fossil-delta";

const utf8 = (text) => new TextEncoder().encode(text);

/** An event without markers: the text of a base, and the result of a delta. */
export function event(data, { name = "tick", channel = "news" } = {}) {
  return JSON.stringify({ event: name, channel, data });
}

/** Appends members to the end of an object, in the given order. */
export function withMembers(text, members) {
  return `${text.slice(0, -1)},${JSON.stringify(members).slice(1)}`;
}

/** A full event with its marker. */
export function full(seq, data, options) {
  return withMembers(event(data, options), { __delta_seq: seq });
}

/** A delta frame: event `seq` with text `target`, from event `base_index` with text `base`. */
export function delta(seq, base_index, base, target, more = {}) {
  const bytes = encode(more.algorithm ?? "fossil", utf8(base), utf8(target));
  const data = { event: "tick", delta: Buffer.from(bytes).toString("base64"), seq, algorithm: "fossil", ...more };
  return JSON.stringify({ event: "pusher:delta", channel: "news", data: { ...data, base_index } });
}

function encode(algorithm, base, target) {
  return algorithm === "fossil" ? createDelta(base, target) : vcdiff(base, target);
}

/** RFC 3284: one window that copies the common prefix and adds the rest. */
function vcdiff(base, target) {
  const same = [...base, 256].findIndex((byte, at) => byte !== target[at]);
  const added = target.slice(same);
  // COPY (19) in mode 0 from address 0, and ADD (1), each with its size.
  const instructions = [19, ...integer(same), 1, ...integer(added.length)];
  const lengths = [...integer(target.length), 0, ...integer(added.length), ...integer(instructions.length), 1];
  const body = [...lengths, ...added, ...instructions, 0];
  return [0xd6, 0xc3, 0xc4, 0, 0, 1, ...integer(base.length), 0, ...integer(body.length), ...body];
}

/** Encodes an integer in base 128, most significant digit first. */
function integer(value) {
  const digits = [value & 127];
  for (let rest = value >> 7; rest > 0; rest >>= 7) digits.unshift((rest & 127) | 128);
  return digits;
}
