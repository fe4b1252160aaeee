//! Every bound of the server, in one place: unit and bound last in the name,
//! the reason above, relations between them asserted at compile time.
//!
//! What an app may change for itself is in [`crate::app::AppLimits`], whose
//! defaults come from here. What happens at each bound, and the counter that
//! shows it, is in the README's table of limits.

use std::time::Duration;

// --- what a backend may send (protocol.md 1.9) -------------------------------

/// Events in one `POST …/batch_events`: Pusher's limit on shared clusters.
pub const BATCH_EVENTS_MAX: usize = 10;
/// Bytes of one event's `data`: Pusher's 10 KB.
pub const PAYLOAD_BYTES_MAX: usize = 10 * 1024;
/// Channels that one event may name: Pusher's limit.
pub const EVENT_CHANNELS_MAX: usize = 100;
/// Characters of an event name: Pusher's limit, checked by its libraries too.
pub const EVENT_NAME_CHARS_MAX: usize = 200;
/// Characters of a channel name. Pusher documents 164; its libraries allow 200.
pub const CHANNEL_NAME_CHARS_MAX: usize = 200;
/// Events times channels of one batch: the work of one script call, during
/// which Redis serves nobody else.
pub const BATCH_PUBLICATIONS_MAX: usize = 10_000;
/// Bytes of one event's `tags`, keys and values together. They travel with the
/// event to every node.
pub const TAGS_BYTES_MAX: usize = 4 * 1024;
/// Characters of an idempotency key (protocol.md 1.9).
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;
/// JSON text may multiply a payload by six: `\u0000` is one byte of data.
pub const JSON_ESCAPE_FACTOR: usize = 6;
/// Room in a body for what has no limit of its own: `socket_id`, `info`,
/// punctuation, white space, fields that are ignored.
pub const EVENT_OVERHEAD_BYTES_MAX: usize = 4 * 1024;
/// Nesting of JSON that strangers send, checked before anything recurses.
pub const JSON_DEPTH_MAX: usize = 64;
/// A request whose body is refused as too large is still read this far, so
/// that its sender gets to see the 413 instead of a reset connection.
pub const BODY_DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A body that is not needed for the answer is read this far, and waited for this
/// long, so that its connection can be used again.
pub const UNREAD_BODY_BYTES_MAX: usize = 64 * 1024;
pub const UNREAD_BODY_TIMEOUT: Duration = Duration::from_millis(100);
/// Connections that the kernel has taken and we have not. One more finds no answer,
/// and its client tries again after a whole second: at the 128 that a library asks for,
/// 256 clients that come back at once already wait that long.
pub const ACCEPT_QUEUE_MAX: u32 = 4 * 1024;
/// Bytes of request line and headers.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// A request head arrives within this time from its first byte on.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Subjects of limited log lines in one minute. Further ones are not logged.
pub const LOG_SUBJECTS_MAX: usize = 64;
/// A request body must arrive within this time.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Clocks of server and backend may differ by this much (protocol.md 1.2).
pub const TIMESTAMP_SKEW_SECS_MAX: u64 = 600;

// --- what a socket may send and hold (protocol.md 2) -------------------------

/// Bytes of one WebSocket message from a client: a client event of 10 KB,
/// escaped, with room for its envelope.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What one read of a socket takes, and an idle socket keeps room for: with 256 it
/// costs 2.5 KB in all, with 512 2.8, with 1,024 3.3, with 4,096 6.3. A message of 200
/// bytes costs the same with each of them; one of 3,000 takes several reads, with 512
/// about a tenth more CPU than with 1,024.
pub const SOCKET_BUFFER_BYTES: usize = 512;
/// Bytes of a client's text that an error message repeats.
pub const SHOWN_TEXT_BYTES_MAX: usize = 1024;
/// Subscriptions of one socket.
pub const SOCKET_SUBSCRIPTIONS_MAX: usize = 10_000;
/// Bytes waiting for one socket. At the bound the client is closed with 4100.
pub const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Chunks waiting for one socket: each is one reply, or one run of events.
pub const WRITE_BUFFER_CHUNKS_MAX: usize = 1024;
/// Chunks handed to the kernel in one vectored write.
pub const WRITE_CHUNKS_MAX: usize = 64;
/// Sockets that the inbox writes to itself, in a round of few; and that a thread
/// writes to at a time. Some microseconds each.
pub const ROUND_WRITES_MAX: usize = 64;
/// After a ping the client has this long to say anything (protocol.md 2.2).
pub const PONG_TIMEOUT: Duration = Duration::from_secs(30);
/// A close frame is sent, and the client's answer awaited, this long.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// `pusher:delta_sync_error` is honoured once per subscription in this time
/// (protocol.md 3.10).
pub const DELTA_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a conflation key: it stands in every frame of its chain.
pub const CONFLATION_KEY_BYTES_MAX: usize = 256;
/// Chains of one channel may be set this far: a node has the newest event of each,
/// and the oldest of all is looked for when one is forgotten.
pub const CHAINS_CEILING: u64 = 10_000;
/// Chains of which a subscriber does not hold the base, remembered one by one.
/// Beyond, each chain that it follows begins anew for it.
pub const MISSING_BASES_MAX: usize = 8;
/// Former connections that a client may name when it resumes.
pub const PREVIOUS_SOCKETS_MAX: usize = 8;
/// Announcements before a resumed position that are read for the bases in them.
pub const RESUME_BASES_MAX: usize = 64;
/// A client that resumes is told its position this long after it has moved without
/// an event for it.
pub const POSITION_DELAY: Duration = Duration::from_secs(1);
/// Bytes of what one client has missed, and of the bases that one is sent at once:
/// half of an outbox, or to catch up would itself close the connection.
pub const CATCH_UP_BYTES_MAX: usize = WRITE_BUFFER_BYTES_MAX / 2;
/// Logs for clients that resume, and bases for those who join, read by a node at
/// once; more channels wait.
pub const CATCH_UP_READS_MAX: usize = 32;

/// What a subscription's filter may hold (protocol.md 4). It is evaluated once per
/// event for all who share it; together these bound what one evaluation costs.
pub const FILTER_EVENTS_MAX: usize = 64;
pub const FILTER_EVENT_BYTES_MAX: usize = 256;
pub const FILTER_NODES_MAX: usize = 128;
pub const FILTER_DEPTH_MAX: usize = 16;
pub const FILTER_KEY_BYTES_MAX: usize = 256;
pub const FILTER_VALUE_BYTES_MAX: usize = 1024;
/// Values of one `in` or `nin`.
pub const FILTER_VALUES_MAX: usize = 128;

/// Users of a presence channel, and bytes of a member's `user_info`: Pusher's
/// 100, and soketi's 2 KB (protocol.md 1.9).
pub const PRESENCE_MEMBERS_MAX: usize = 100;
pub const PRESENCE_MEMBER_BYTES_MAX: usize = 2 * 1024;
/// An app may raise the first this far: a roster is one frame to whoever joins.
pub const PRESENCE_MEMBERS_CEILING: u64 = 10_000;
/// Characters of a user id (protocol.md 1.9).
pub const USER_ID_CHARS_MAX: usize = 128;
/// Users that one socket may watch (protocol.md 2.10).
pub const WATCHLIST_MAX: usize = 100;
/// A cache channel keeps its last event this long (protocol.md 2.12).
pub const CACHE_TTL: Duration = Duration::from_secs(1_800);
/// Above this many subscribers a count is told once in this time (protocol.md
/// 2.11).
pub const COUNT_UNTHROTTLED_MAX: u64 = 100;
pub const COUNT_INTERVAL: Duration = Duration::from_secs(5);

// --- apps --------------------------------------------------------------------

/// Secrets of one app: each is tried for a signature.
pub const APP_SECRETS_MAX: usize = 8;
/// Bytes of an app's id or key.
pub const APP_NAME_BYTES_MAX: usize = 200;
/// Apps kept in Redis that a node remembers, and ids and keys that are nobody's.
pub const APPS_CACHED_MAX: u64 = 10_000;
/// What is remembered of an app is read again after this long. Changes are heard
/// of at once: this is for what was not heard.
pub const APP_CACHE_TTL: Duration = Duration::from_secs(60);
/// That there is no such app is remembered this long.
pub const UNKNOWN_APP_CACHE_TTL: Duration = Duration::from_millis(1_500);
/// Reads of apps of a node under way at once; more wait. Strangers make keys up
/// faster than Redis should be asked for them.
pub const APP_LOOKUPS_MAX: usize = 64;
/// Times that a look-up starts anew because apps were changed meanwhile.
pub const APP_LOOKUP_ATTEMPTS_MAX: usize = 5;
/// The connection that hears of changed apps is proved this often.
pub const APP_CHANGES_PROOF_INTERVAL: Duration = Duration::from_secs(2);

// --- webhooks (protocol.md 5) --------------------------------------------------

/// A channel that is vacated, or a member that leaves, may come back within this
/// time, and no webhook is sent: a page was reloaded.
pub const WEBHOOK_GRACE: Duration = Duration::from_secs(3);
/// Events waiting in the outbox of one partition. Beyond, new ones are dropped.
pub const WEBHOOK_OUTBOX_MAX: usize = 10_000;
/// Events of one partition that its consumer works on at once.
pub const WEBHOOK_PENDING_MAX: usize = 1_000;
/// What was put off is looked at this much at a time.
pub const WEBHOOK_DUE_MAX: usize = 100;
/// Events in one call.
pub const WEBHOOK_BATCH_MAX: usize = 100;
/// Calls of a node under way at once, and of one webhook: a receiver that hangs
/// leaves room for all others.
pub const WEBHOOK_CALLS_MAX: usize = 64;
pub const WEBHOOK_ENDPOINT_CALLS_MAX: usize = 16;
/// How many of either may repeat what has failed before: the channels that fail
/// leave room for those that do not.
pub const WEBHOOK_RETRIES_MAX: usize = WEBHOOK_CALLS_MAX / 2;
pub const WEBHOOK_ENDPOINT_RETRIES_MAX: usize = WEBHOOK_ENDPOINT_CALLS_MAX / 2;
/// A receiver has this long to answer, and this much of its answer is read.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 4 * 1024;
/// The first pause after a failed call; each further one is twice as long.
pub const WEBHOOK_BACKOFF_MIN: Duration = Duration::from_secs(1);
pub const WEBHOOK_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// An event that could not be delivered for this long is given up.
pub const WEBHOOK_AGE_MAX: Duration = Duration::from_secs(300);
/// A partition's outbox is looked at this often.
pub const WEBHOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Partitions whose outbox a node looks at, at the same time.
pub const WEBHOOK_CLAIMS_MAX: usize = 32;
/// A consumer that has not renewed its lease for this long is replaced.
pub const WEBHOOK_LEASE: Duration = Duration::from_secs(5);
/// At an orderly stop, calls under way and what is waiting have this long. It is
/// not renewed any more, so no longer than the lease.
pub const WEBHOOK_STOP_TIMEOUT: Duration = Duration::from_secs(5);

// --- a node -------------------------------------------------------------------

/// Connections of one app waiting to be let in. Beyond, sockets wait with their
/// handshake done and nothing said.
pub const CONNECTION_WAITERS_MAX: usize = 4 * 1024;
/// An app's connections are counted anew in the cluster this often.
pub const CONNECTION_LIMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Announcements waiting for the inbox, and their bytes. One that finds it full
/// is dropped and counted, and the inbox reads the channel's log instead.
pub const BACKEND_EVENTS_MAX: usize = 16 * 1024;
pub const BACKEND_EVENTS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Subscribe and unsubscribe requests waiting for the inbox. Sockets wait.
pub const COMMANDS_MAX: usize = 4 * 1024;
/// Announcements or requests that the inbox handles before it wakes the sockets
/// it has written to.
pub const ROUND_MAX: usize = 256;
/// Subscriptions waiting for the backend. Beyond, the socket that asks is closed
/// with 4100.
pub const PENDING_MAX: usize = 100_000;
/// Membership scripts of a node under way at once.
pub const MEMBERSHIP_UPDATES_MAX: usize = 256;
/// Channels compared with their heads in one call, and calls under way at once.
pub const POSITION_CHECK_CHANNELS: usize = 256;
pub const POSITION_CHECKS_MAX: usize = 4;
/// A head that is ahead of us is given this long to be heard before its log is
/// read.
pub const LAGGING_DELAY: Duration = Duration::from_millis(200);
/// What the backend refused is tried again after this long.
pub const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Gauges that have to be counted are counted this often.
pub const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// The inbox looks at what is due this often.
pub const CHANNELS_TICK: Duration = Duration::from_millis(100);
/// Deliveries kept for joiners whose script is still under way, per channel.
/// Beyond, the joiner starts anew from the head.
pub const CATCH_UP_BUFFER_ENTRIES_MAX: usize = 1_000;
/// Users of a presence channel that one script tells of.
pub const UPDATED_USERS_MAX: usize = 100;
/// Changes of a roster while it is read. Beyond, it is read anew.
pub const ROSTER_CHANGES_MAX: usize = 10_000;
/// After Redis may have lost members, all nodes have told it of theirs by then.
pub const ROSTER_DELAY: Duration = Duration::from_secs(3);
/// A channel without local subscribers stays listened to this long.
pub const LINGER: Duration = Duration::from_secs(5);

// --- Redis ----------------------------------------------------------------------

/// Partitions of all channels. Part of every key: can never change.
pub const PARTITIONS: usize = 256;
/// What a channel's log keeps (design.md 3): entries, bytes, age. In Redis an
/// eighth goes at once. Of 500 single events in a second that leaves more than the
/// last five seconds: what a client misses that connects anew.
pub const LOG_ENTRIES_MAX: usize = 3_000;
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
pub const LOG_AGE_MAX: Duration = Duration::from_secs(60);
/// A channel's head is forgotten after this long without an entry.
pub const HEAD_IDLE_MAX: Duration = Duration::from_secs(3_600);
/// One attempt of a script waits this long for its answer.
pub const SCRIPT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// All attempts of one operation together. Beyond: 503 `outcome_unknown`.
pub const SCRIPT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at a connection that is being made anew.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Commands waiting in one Redis connection. Beyond: 503.
pub const REDIS_COMMANDS_MAX: usize = 20_000;
/// Connections that run scripts; a channel's scripts all use the same one.
pub const REDIS_CONNECTIONS: usize = 4;
/// A node that starts waits this long for Redis.
pub const REDIS_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Topics to listen to, or not to, waiting for the one task that does it.
pub const LISTEN_REQUESTS_MAX: usize = 64 * 1024;
/// Topics in one SUBSCRIBE: more would pass the server's buffer limit.
pub const SUBSCRIBE_TOPICS_MAX: usize = 512;
/// Messages that the Redis client holds for us before it drops and says so.
pub const REDIS_MESSAGES_MAX: usize = 4 * 1024;
/// The same for connections that run scripts, which have only reconnects to tell.
pub const REDIS_EVENTS_MAX: usize = 64;
/// Log reads of a node under way at once.
pub const REPAIRS_MAX: usize = 32;
/// Bytes of logs that a node reads per [`POSITION_CHECK_INTERVAL`]. Beyond,
/// a channel skips to its head and is counted.
pub const REPAIR_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Announcements held back while a channel's log is read.
pub const REPAIR_BUFFER_ENTRIES_MAX: usize = 1_000;
/// Every listened channel is compared with its head within this time.
pub const POSITION_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Every channel's membership is asserted anew within this time.
pub const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(60);
/// A node whose lease counter stands still this long is dead.
pub const LEASE_EXPIRY: Duration = Duration::from_secs(8);
/// Short: what it adds to the expiry, twice, and the sweep have to end within the
/// ten seconds that are promised, on a busy machine too.
pub const LEASE_INTERVAL: Duration = Duration::from_millis(250);
/// Partitions of a dead node swept at once, and channels read at once in each.
pub const SWEEPS_MAX: usize = 32;
pub const SWEEP_CHANNELS: usize = 128;
/// Users of a dead node taken from one channel in one step.
pub const SWEEP_USERS: usize = 100;
/// Channels in one page of the index, and pages read at once by one query.
pub const LISTED_CHANNELS_MAX: usize = 1_000;
pub const LISTINGS_MAX: usize = 8;
/// The node hears its own probe within this time, or is deaf.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Redis may be away this long before `/ready` says so: a blip must not empty
/// the load balancer.
pub const READY_GRACE: Duration = Duration::from_secs(3);

const _: () = assert!(PARTITIONS == 256, "the partition is one byte of a hash");
const _: () = assert!(SCRIPT_ATTEMPT_TIMEOUT.as_millis() * 2 <= SCRIPT_DEADLINE.as_millis());
const _: () =
    assert!(SCRIPT_DEADLINE.as_millis() < LOG_AGE_MAX.as_millis(), "a resend is checked against the log");
const _: () = assert!(LEASE_INTERVAL.as_millis() * 4 <= LEASE_EXPIRY.as_millis());
const _: () = assert!(WEBHOOK_STOP_TIMEOUT.as_millis() <= WEBHOOK_LEASE.as_millis());
const _: () = assert!(WEBHOOK_INTERVAL.as_millis() * 4 <= WEBHOOK_LEASE.as_millis());
const _: () = assert!(WEBHOOK_ENDPOINT_CALLS_MAX * 4 <= WEBHOOK_CALLS_MAX, "no webhook takes all calls");
const _: () = assert!(PAYLOAD_BYTES_MAX * JSON_ESCAPE_FACTOR < MESSAGE_BYTES_MAX);
const _: () = assert!(CATCH_UP_BUFFER_ENTRIES_MAX <= LOG_ENTRIES_MAX);
const _: () = assert!(LISTED_CHANNELS_MAX <= 1_000, "a script hands them on with unpack");
const _: () = assert!(JSON_DEPTH_MAX < 128, "serde_json recurses to 128");
const _: () = assert!(2 * FILTER_DEPTH_MAX < JSON_DEPTH_MAX, "a node is two levels of JSON, a compound one");
