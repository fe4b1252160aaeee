/** A client of `pusher-js`, whichever of its builds it is from. */
export interface PusherClient {
  connection: { state: string };
  channel(name: string): unknown;
  subscribe(name: string): unknown;
}

export interface DeltaOptions {
  /** The format of deltas. Left out, the server chooses. */
  algorithm?: "fossil" | "xdelta3";
  /** Whether to get what was missed after a reconnect. Default: true. */
  resume?: boolean;
  /** Whether a channel takes part, by its name. Default: every channel does. */
  channels?: (name: string) => boolean;
}

export interface DeltaStats {
  /** Events passed to the application that had a number. */
  events: number;
  /** Those of them that came as deltas. */
  deltas: number;
  /** Bytes of all frames of the channels that take part, before TLS and WebSocket framing. */
  bytes: number;
  /** What they would have been without this package. */
  fullBytes: number;
  /** `fullBytes - bytes`. */
  saved: number;
  /** How often a position was resumed: every missed event came. */
  resumed: number;
  /** How often it was not: `fanfare:restart` was told on the channel. */
  restarted: number;
  /** How often a delta did not fit, and was asked for again. */
  resyncs: number;
}

export interface Deltas {
  /**
   * The counts so far: of everything, or of one channel, which begins anew
   * when it is subscribed anew.
   */
  stats(channel?: string): DeltaStats;
}

/** Told on a channel, with data `{}`, when events may have been missed. */
export type RestartEvent = "fanfare:restart";

/**
 * Lets a `pusher-js` client ask for deltas, decode them, and resume its
 * subscriptions after a reconnect. Call it right after `new Pusher(…)`, before
 * the first `subscribe`. Called again for the same client it changes nothing.
 */
export function withDeltas(pusher: PusherClient, options?: DeltaOptions): Deltas;
