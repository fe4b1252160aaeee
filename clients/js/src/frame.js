// Frames and their delta markers (protocol.md 3.3 to 3.5).

const MARKER = ',"__delta_seq":';

/** Parses a frame. Undefined if it is not JSON, which pusher-js reports as an error itself. */
export function parse(raw) {
  try {
    return JSON.parse(raw);
  } catch {
    return undefined;
  }
}

/** The data of a frame as an object. Some frames carry an object, others a string of JSON. */
export function dataOf({ data }) {
  return (typeof data === "string" ? parse(data) : data) ?? {};
}

/**
 * The sequence number, chain and base text of a full event. `key` and `base` are
 * undefined if the event is not part of a chain. The base excludes the markers of the style
 * `underscore`, which are the last members, and includes those of the style `plain`.
 */
export function readEvent(frame, raw) {
  const { __delta_seq, sequence, __seq } = frame;
  const key = frame.__conflation_key ?? frame.conflation_key ?? "";
  if (__delta_seq !== undefined) {
    return { seq: __delta_seq, key, base: raw.slice(0, raw.lastIndexOf(MARKER)) + "}" };
  }
  return sequence === undefined ? { seq: __seq } : { seq: sequence, key, base: raw };
}
