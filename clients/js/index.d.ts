/** A client of `pusher-js`, from any of its builds. */
export interface PusherClient {
  connection: { state: string };
  channel(name: string): unknown;
  subscribe(name: string): unknown;
}

export interface DeltaOptions {
  /** The format of deltas. Default: the server's choice. */
  algorithm?: "fossil" | "xdelta3";
  /** Whether to receive missed events after a reconnect. Default: true. */
  resume?: boolean;
  /** Whether a channel takes part, by name. Default: all channels take part. */
  channels?: (name: string) => boolean;
}

export interface DeltaStats {
  /** Numbered events passed to the application. */
  events: number;
  /** The number of them that arrived as deltas. */
  deltas: number;
  /** Bytes of all frames of the channels that take part, before TLS and WebSocket framing. */
  bytes: number;
  /** Bytes of the same frames without this package. */
  fullBytes: number;
  /** `fullBytes - bytes`. */
  saved: number;
  /** Positions that were resumed: every missed event arrived. */
  resumed: number;
  /** Positions that were not resumed: the channel emitted `fanfare:restart`. */
  restarted: number;
  /** Deltas that could not be decoded and were requested again. */
  resyncs: number;
}

export interface Deltas {
  /**
   * The counts so far, of all channels or of one channel. Those of a channel restart
   * from zero with a new subscription.
   */
  stats(channel?: string): DeltaStats;
}

/** The event, with data `{}`, that a channel emits when events may be lost. */
export type RestartEvent = "fanfare:restart";

/**
 * Enables deltas on a `pusher-js` client, and resumes its subscriptions after a
 * reconnect. Call it right after `new Pusher(…)`, before the first `subscribe`.
 * Further calls with the same client return the same object and ignore the options.
 */
export function withDeltas(pusher: PusherClient, options?: DeltaOptions): Deltas;
