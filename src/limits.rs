//! The limits of the server, with the unit and the bound last in the name, the
//! reason above, and relations between them asserted at compile time.
//!
//! Bounds that concern one module only are defined there;
//! docs/explanation/architecture.md lists them. [`crate::app::AppLimits`] holds
//! the limits that an app can change, with defaults from here. The effect of a
//! limit, and the counter that shows it, are in docs/guides/limits.md.

use std::time::Duration;

// --- requests of a backend (protocol.md 1.9) ---------------------------------

/// Events in one `POST …/batch_events`: Pusher's limit on shared clusters.
pub const BATCH_EVENTS_MAX: usize = 10;
/// Bytes of one event's `data`: Pusher's 10 KB.
pub const PAYLOAD_BYTES_MAX: usize = 10 * 1024;
/// Channels of one event: Pusher's limit.
pub const EVENT_CHANNELS_MAX: usize = 100;
/// Characters of an event name: Pusher's limit, checked by its libraries too.
pub const EVENT_NAME_CHARS_MAX: usize = 200;
/// Characters of a channel name. Pusher documents 164; its libraries allow 200.
pub const CHANNEL_NAME_CHARS_MAX: usize = 200;
/// Events times channels of one batch, and its largest configurable value: the work of one
/// script call, which blocks Redis for all other clients. With [`BATCH_BYTES_MAX`], it bounds
/// the call to 0.1 s, a twentieth of [`SCRIPT_ATTEMPT_TIMEOUT`]. Measured on two shared cores
/// with Redis 7.0, CPU time of its main thread, small events: 2 ms for 100 channels, 20 for
/// 1,000, 89 for 4,000, 210 for 10,000; with cached event and initial bases twice as much.
pub const BATCH_PUBLICATIONS_MAX: usize = 1_000;
/// Bytes of name, data and tags of all events of one batch, each once per channel: Redis
/// stores and sends a copy for each. Measured likewise: 4 ms for 1 MiB on 10 channels, 18 for
/// 4 MiB, 39 for 8 MiB; 39 for 4 MiB on 1,000 channels, 80 with cached event and initial bases.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Cost of the batches of one app that a node publishes at once; the others wait. 1 for each
/// publication or 4 KiB: 10 ms of Redis' time (see [`BATCH_PUBLICATIONS_MAX`]), which is what
/// one app can delay another, and 50,000 publications a second with a Redis that is 5 ms away.
pub const PUBLISH_COST_MAX: u32 = 256;
pub const PUBLISH_COST_BYTES: usize = 4 * 1024;
/// Time that a batch waits for those before it. Shorter than [`SCRIPT_DEADLINE`]: while Redis
/// does not reply, a caller learns sooner that its batch was not published.
pub const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of one event's `tags`, keys and values together. Every node receives
/// them with the event.
pub const TAGS_BYTES_MAX: usize = 4 * 1024;
/// Characters of an idempotency key (protocol.md 1.9).
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;
/// Bytes of JSON text per byte of payload, at most: `\u0000` is one byte of data.
pub const JSON_ESCAPE_FACTOR: usize = 6;
/// Bytes of a request body, per event and once per request, for the parts without
/// a limit of their own: `socket_id`, `info`, punctuation, white space, ignored fields.
pub const EVENT_OVERHEAD_BYTES_MAX: usize = 4 * 1024;
/// Levels of nesting in untrusted JSON, checked before any recursive parser runs.
pub const JSON_DEPTH_MAX: usize = 64;
/// Bytes that are still read of a body after its refusal as too large, so that
/// the sender receives the 413 and not a connection reset.
pub const BODY_DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that are read of a body which the response did not need, so that the
/// connection can be reused.
pub const UNREAD_BODY_BYTES_MAX: usize = 64 * 1024;
/// Time limit for reading such a body.
pub const UNREAD_BODY_TIMEOUT: Duration = Duration::from_millis(100);
/// Connections that the kernel has completed and the server has not accepted. The
/// kernel drops one more, and its client retries after a whole second: with the
/// backlog of 128 that libraries use, 256 clients that reconnect at once already do.
pub const ACCEPT_QUEUE_MAX: u32 = 4 * 1024;
/// Parameters in the query of a request. Pusher's libraries send fewer than ten.
pub const QUERY_PARAMETERS_MAX: usize = 64;
/// Bytes of all texts over which the signature of a request is computed, one for each variant
/// of path and query (protocol.md 1.2). Beyond it no further variant is tried: the sender may
/// know nothing but the id and the key of an app.
pub const SIGNED_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of request line and headers.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time from the first byte of a request head to its last.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time in which a client has to read some of its responses, once the kernel accepts no more
/// of them.
pub const HTTP_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of responses on one HTTP connection that the kernel accepts before it can send them.
/// Above it, the next request stays unread: pipelined requests wait for their client.
pub const HTTP_UNSENT_BYTES_MAX: u32 = 64 * 1024;
/// Requests per second of one client address without a valid signature: health checks, unknown
/// paths, wrong signatures. Above it their responses wait: a client can pipeline them on many
/// connections, and would take all of the node's time.
pub const UNSIGNED_REQUESTS_PER_SEC: u32 = 200;
/// Such requests of an address at once.
pub const UNSIGNED_REQUESTS_BURST: u32 = 1_000;
/// The longest wait of such a response: shorter than the timeouts of health checks, which may
/// have the address of a load balancer with many clients. Each connection has two in a second.
pub const UNSIGNED_DELAY_MAX: Duration = Duration::from_millis(500);
/// Addresses whose requests are counted: those of the last seconds. Requests of further ones do not
/// wait.
pub const UNSIGNED_ADDRESSES_MAX: usize = 64 * 1024;
/// Time after which a connection that has not become a WebSocket counts against the limit of
/// its address: longer than a handshake takes while thousands of clients reconnect.
pub const HTTP_SETTLE_TIME: Duration = Duration::from_secs(5);
/// File descriptors that connections of clients do not use, or a quarter of all if that is
/// less. They remain for Redis, webhooks, metrics and the reserve.
pub const RESERVED_FILES_MAX: u64 = 256;
/// Connections that are served from the reserve, or a quarter of the reserved descriptors if
/// that is less: one request each, when there is no place for others.
pub const RESERVE_CONNECTIONS_MAX: u64 = 64;
/// Time from accepting such a connection to the first byte of its request.
pub const RESERVE_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time until such a connection has received its response.
pub const RESERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum time between two log lines about a shortage of places for connections.
pub const SHORTAGE_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Apps with series of their own in the metrics with the label `app`: the largest. All others
/// are one series.
pub const APPS_LABELLED_MAX: usize = 50;
/// Apps that are counted one by one. The metrics of further ones have no label.
pub const APPS_COUNTED_MAX: usize = 20_000;
/// Connections to the listener of the metrics.
pub const METRICS_CONNECTIONS_MAX: usize = 32;
/// Subjects of rate limited log lines in one minute. Further ones are not logged.
pub const LOG_SUBJECTS_MAX: usize = 64;
/// Time until a request body has arrived completely.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds between the clocks of server and backend (protocol.md 1.2).
pub const TIMESTAMP_SKEW_SECS_MAX: u64 = 600;

// --- messages and state of a socket (protocol.md 2) --------------------------

/// Bytes of one WebSocket message from a client: a client event of 10 KB,
/// escaped, and its envelope.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one read of a socket, and of the read buffer that an idle socket keeps. An
/// idle socket costs 2.5 KB in all with 256, 2.8 with 512, 3.3 with 1,024, 6.3 with
/// 4,096. A message of 200 bytes costs the same CPU with each of them; one of 3,000
/// needs several reads, and about a tenth more CPU with 512 than with 1,024.
pub const SOCKET_BUFFER_BYTES: usize = 512;
/// Bytes of a client's text that an error message repeats.
pub const SHOWN_TEXT_BYTES_MAX: usize = 1024;
/// Subscriptions of one socket. Pusher has no such limit, and pages with hundreds exist.
pub const SOCKET_SUBSCRIPTIONS_MAX: usize = 1_000;
/// Largest `max_subscriptions` of an app.
pub const SOCKET_SUBSCRIPTIONS_CEILING: u64 = 10_000;
/// Bytes that the subscriptions of one socket may cost at once: all of its channels after a
/// reconnect, and some megabytes of missed events. Above it, the next command waits, and with it
/// the messages behind it.
pub const SUBSCRIBE_BUDGET_BYTES: i64 = 4 * 1024 * 1024;
/// Bytes per second that are added to that budget.
pub const SUBSCRIBE_BUDGET_BYTES_PER_SEC: u64 = 1024 * 1024;
/// Bytes of that budget for each command, in addition to the frames that answer it: its work in
/// the node and in Redis.
pub const SUBSCRIBE_COST_BYTES: u64 = 2 * 1024;
/// Bytes in the write buffer of one socket. Above it, the server closes the
/// connection with 4100.
pub const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Chunks in the write buffer of one socket: each is a reply or an encoded batch.
pub const WRITE_BUFFER_CHUNKS_MAX: usize = 1024;
/// Chunks handed to the kernel in one vectored write.
pub const WRITE_CHUNKS_MAX: usize = 64;
/// Sockets that the channels actor flushes itself; above it, the writer pool does, in
/// portions of this size. A flush takes some microseconds.
pub const ROUND_WRITES_MAX: usize = 64;
/// Time after a ping in which the client has to send a message (protocol.md 2.2).
pub const PONG_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for sending a close frame and receiving the client's.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum time between two `pusher:delta_sync_error` of a subscription that have an
/// effect (protocol.md 3.10).
pub const DELTA_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a conflation key. Every frame of its chain contains it.
pub const CONFLATION_KEY_BYTES_MAX: usize = 256;
/// Largest configurable number of chains of a channel. A node keeps the newest event of
/// each, and eviction searches all of them for the oldest.
pub const CHAINS_CEILING: u64 = 10_000;
/// Missing bases of a subscriber that are recorded one by one. Above it, every chain
/// starts again with a full event for this subscriber.
pub const MISSING_BASES_MAX: usize = 8;
/// Previous socket ids in a client's resume request.
pub const PREVIOUS_SOCKETS_MAX: usize = 8;
/// Entries before a resumed position that are read for their bases.
pub const RESUME_BASES_MAX: usize = 64;
/// Time from a position change without an event for a subscriber to its position
/// notice.
pub const POSITION_DELAY: Duration = Duration::from_secs(1);
/// Bytes of the frames of one client's missed events: half of a write buffer, so that
/// recovery does not overflow it and close the connection. Initial bases may have half of
/// this before they are escaped.
pub const CATCH_UP_BYTES_MAX: usize = WRITE_BUFFER_BYTES_MAX / 2;
/// Concurrent reads of a node: of histories for recovery, and, counted apart, of
/// initial bases. Further channels wait in a queue.
pub const CATCH_UP_READS_MAX: usize = 32;

// Filters of subscriptions (protocol.md 4). A node evaluates a filter once per event for all
// subscriptions to a channel with an equal filter. The cost of a filter is its time in multiples
// of that of a short comparison: 20 to 100 ns.

/// Event names in a filter.
pub const FILTER_EVENTS_MAX: usize = 64;
/// Bytes of an event name in a filter.
pub const FILTER_EVENT_BYTES_MAX: usize = 256;
/// Nodes of a filter expression.
pub const FILTER_NODES_MAX: usize = 128;
/// Levels of a filter expression.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Bytes of a tag key in a filter.
pub const FILTER_KEY_BYTES_MAX: usize = 256;
/// Bytes of a value in a filter.
pub const FILTER_VALUE_BYTES_MAX: usize = 1024;
/// Values of one `in` or `nin`.
pub const FILTER_VALUES_MAX: usize = 128;
/// Bytes of all event names, keys and values of a filter.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Cost of a search in a tag (`ct`). With tags of [`TAGS_BYTES_MAX`] that repeat most of the value
/// again and again it takes 5 µs, otherwise about 100 ns.
pub const FILTER_SEARCH_COST: usize = 100;
/// Cost of one filter: 20 searches.
pub const FILTER_COST_MAX: usize = 2_000;
/// Cost of the distinct filters of a channel's subscriptions on a node: 10,000 comparisons, or 100
/// searches. The channels actor evaluates all of them for each event.
pub const CHANNEL_FILTERS_COST_MAX: usize = 10_000;
/// Cost of the filters of all channels of an app on a node. It bounds their memory: 100 MB, with
/// the state that each distinct filter of a channel has there.
pub const APP_FILTERS_COST_MAX: usize = 100_000;
/// Share of the time of the channels actor that the filters of one app may take: one part of this
/// many. Above it the app's entries wait, so that those of other apps do not.
pub const FILTER_TIME_PARTS: u32 = 10;
/// Time in which an app may use its share at once.
pub const FILTER_TIME_WINDOW: Duration = Duration::from_millis(100);
/// Entries of one app that wait for its share. Above it they are dropped.
pub const FILTER_BACKLOG_ENTRIES_MAX: usize = 1_024;
/// Bytes of these entries, with the same effect.
pub const FILTER_BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time after such a drop in which channels of the app continue at their heads instead of reading
/// the missing entries. Longer than [`POSITION_CHECK_INTERVAL`], which finds the last of the gaps.
pub const FILTER_BACKLOG_RECOVERY: Duration = Duration::from_secs(20);
/// Bases against which an event is encoded as a delta. Only groups with different filters have
/// different bases; further ones receive the full event.
pub const EVENT_BASES_MAX: usize = 16;

/// Users of a presence channel: Pusher's 100 (protocol.md 1.9).
pub const PRESENCE_MEMBERS_MAX: usize = 100;
/// Bytes of a member's `user_info`: soketi's 2 KB (protocol.md 1.9).
pub const PRESENCE_MEMBER_BYTES_MAX: usize = 2 * 1024;
/// Largest `max_presence_members_per_channel` of an app: a new subscriber receives
/// the roster in one frame.
pub const PRESENCE_MEMBERS_CEILING: u64 = 10_000;
/// Characters of a user id (protocol.md 1.9).
pub const USER_ID_CHARS_MAX: usize = 128;
/// Users on the watchlist of one socket (protocol.md 2.10).
pub const WATCHLIST_MAX: usize = 100;
/// Time for which a cache channel keeps its last event (protocol.md 2.12).
pub const CACHE_TTL: Duration = Duration::from_secs(1_800);
/// Subscribers up to which every change of the count is broadcast
/// (protocol.md 2.11).
pub const COUNT_UNTHROTTLED_MAX: u64 = 100;
/// Minimum time between two broadcasts of a larger count.
pub const COUNT_INTERVAL: Duration = Duration::from_secs(5);

// --- apps --------------------------------------------------------------------

/// Secrets of one app: a signature is compared with each.
pub const APP_SECRETS_MAX: usize = 8;
/// Bytes of an app's id or key.
pub const APP_NAME_BYTES_MAX: usize = 200;
/// Apps of Redis in a node's cache, and unknown ids and keys.
pub const APPS_CACHED_MAX: u64 = 10_000;
/// Time after which a cached app is read again. Change notifications invalidate it at
/// once; the expiry covers lost notifications.
pub const APP_CACHE_TTL: Duration = Duration::from_secs(60);
/// Time for which the absence of an app is cached.
pub const UNKNOWN_APP_CACHE_TTL: Duration = Duration::from_millis(1_500);
/// Concurrent reads of apps by a node; more wait. Unauthenticated clients can send
/// invented keys at a higher rate than Redis should serve.
pub const APP_LOOKUPS_MAX: usize = 64;
/// Attempts of a look-up: it starts again when an app changed during the read.
pub const APP_LOOKUP_ATTEMPTS_MAX: usize = 5;
/// Interval of the check that the connection for app changes still receives.
pub const APP_CHANGES_PROOF_INTERVAL: Duration = Duration::from_secs(2);

// --- webhooks (protocol.md 5) --------------------------------------------------

/// Time in which a vacated channel is occupied again, or a removed member returns,
/// without a webhook event: a page reload.
pub const WEBHOOK_GRACE: Duration = Duration::from_secs(3);
/// Events in the outbox of one app and partition. Above it, new ones are dropped.
pub const WEBHOOK_OUTBOX_MAX: usize = 10_000;
/// Events of one app and partition that their consumer has read and not yet removed.
pub const WEBHOOK_PENDING_MAX: usize = 1_000;
/// Events in one read of an outbox. Small, because Redis serves no other client during a read.
pub const WEBHOOK_READ_MAX: usize = 100;
/// Events at the end of their grace period that one read of an outbox handles.
pub const WEBHOOK_DUE_MAX: usize = 100;
/// Of these, how many are settled concurrently.
pub const WEBHOOK_SETTLEMENTS_MAX: usize = 16;
/// Events in one call.
pub const WEBHOOK_BATCH_MAX: usize = 100;
/// Concurrent calls of a node.
pub const WEBHOOK_CALLS_MAX: usize = 64;
/// Concurrent calls of one endpoint: a receiver that hangs leaves capacity for all
/// others.
pub const WEBHOOK_ENDPOINT_CALLS_MAX: usize = 16;
/// Divisor of the free calls of a node: an app begins a call, or a retry, while it has
/// fewer in progress than this share of the free ones. So one app has at most a third of
/// all, and each further app whose receivers hang leaves something for the next.
pub const WEBHOOK_APP_CALLS_DIVISOR: usize = 2;
/// Concurrent retries of a node: failing channels leave capacity for the others.
pub const WEBHOOK_RETRIES_MAX: usize = WEBHOOK_CALLS_MAX / 2;
/// Concurrent retries of one endpoint, for the same reason.
pub const WEBHOOK_ENDPOINT_RETRIES_MAX: usize = WEBHOOK_ENDPOINT_CALLS_MAX / 2;
/// Time until a receiver has answered a call.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are read of a receiver's response body.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 4 * 1024;
/// The first backoff after a failed call; each further one is twice as long.
pub const WEBHOOK_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest backoff between two attempts.
pub const WEBHOOK_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Failed calls of an endpoint without a success in between that open its circuit: until
/// a call succeeds, one call at a time is made, with the same backoff. Further retries of
/// a channel do not count, because a receiver may reject one event for ever.
pub const WEBHOOK_CIRCUIT_FAILURES: u32 = 10;
/// Age at which an undelivered event is dropped.
pub const WEBHOOK_AGE_MAX: Duration = Duration::from_secs(300);
/// Interval at which a node looks for new events in a partition.
pub const WEBHOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Partitions that a node claims concurrently.
pub const WEBHOOK_CLAIMS_MAX: usize = 32;
/// Apps listed in the answer to one claim; further ones are listed after the next.
pub const WEBHOOK_APPS_MAX: usize = 1_000;
/// Outboxes that a node reads concurrently, in turns by app.
pub const WEBHOOK_READS_MAX: usize = 32;
/// Hosts that have a label of their own in the metric of failed calls; further ones share
/// the label `other`.
pub const WEBHOOK_HOST_LABELS_MAX: usize = 64;
/// Time without renewal after which another node replaces a consumer.
pub const WEBHOOK_LEASE: Duration = Duration::from_secs(5);
/// Time for calls in progress and queued events at a graceful stop. The consumer no
/// longer renews its lease, so it must not exceed [`WEBHOOK_LEASE`].
pub const WEBHOOK_STOP_TIMEOUT: Duration = Duration::from_secs(5);

// --- a node -------------------------------------------------------------------

/// Connections of one app in the queue for a connection permit. When it is full,
/// further sockets wait before it, with a completed handshake and no message sent.
pub const CONNECTION_WAITERS_MAX: usize = 4 * 1024;
/// Interval at which a node reports an app's connections to the cluster.
pub const CONNECTION_LIMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Entries in the queue of backend events. When it is full, an entry is dropped and
/// counted, and the channels actor reads the channel's history instead.
pub const BACKEND_EVENTS_MAX: usize = 16 * 1024;
/// Bytes of the entries in that queue, with the same effect.
pub const BACKEND_EVENTS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Commands in the queue of the channels actor. When it is full, sockets wait.
pub const COMMANDS_MAX: usize = 4 * 1024;
/// Entries or commands that the channels actor handles before it flushes the write
/// buffers that it has filled.
pub const ROUND_MAX: usize = 256;
/// Pending subscriptions of one app on a node. Above it, the app's sockets wait in turn, and the
/// node reads nothing more from them until then.
pub const APP_PENDING_MAX: usize = 4 * 1024;
/// Calls of one kind that a node may have in flight, for each second that the shortest of them has
/// taken: more than twice what Redis executes. Measured with Redis on the same machine, while an app
/// subscribed to 9,000 channels: a hundredth of another app's deliveries took 10 ms or more with 32
/// in flight, 20 to 800 ms with 256, and 10,000 subscriptions took 0.8 s with 32, 0.7 s with 256.
pub const CALLS_PER_SEC: u32 = 32_000;
/// Calls of one kind that a node may always have in flight, up to the limit of the kind.
pub const CALLS_IN_FLIGHT_MIN: usize = 32;
/// Concurrent subscriptions to topics by a node. Further channels wait in a queue that is
/// fair to apps and sockets, as for each of the following kinds of jobs.
pub const LISTENS_MAX: usize = 256;
/// Concurrent requests of a node to toggle the deltas of a channel.
pub const DELTA_TOGGLES_MAX: usize = 16;
/// Concurrent openings of epochs by a node.
pub const EPOCH_OPENS_MAX: usize = 32;
/// Concurrent membership updates of a node.
pub const MEMBERSHIP_UPDATES_MAX: usize = 256;
/// Channels compared with their heads in one call.
pub const POSITION_CHECK_CHANNELS: usize = 256;
/// Concurrent head checks of a node.
pub const POSITION_CHECKS_MAX: usize = 4;
/// Time for the entries of a newer head to arrive, before a head check reads the
/// channel's history.
pub const LAGGING_DELAY: Duration = Duration::from_millis(200);
/// Pause before a failed backend call is repeated.
pub const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Attempts of a starting node to check its permission to subscribe. A lost connection causes another
/// one; after the last, the node starts, and a missing permission makes it unready.
pub const SUBSCRIBE_CHECKS_MAX: u32 = 5;
/// Interval at which a node removes what has expired, and gives back the memory of collections
/// that a burst has left almost empty.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// Channels of the memory backend that are searched for expired parts at once, under its lock.
pub const EXPIRED_CHANNELS_MAX: usize = 32;
/// Such searches of one channel in the age of its history: entries are kept a quarter longer.
pub const EXPIRY_SEARCHES: u32 = 4;
/// Interval of the gauges that are computed by counting.
pub const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// Entries in the catch-up buffer of a channel, for pending subscriptions whose
/// membership update is in flight. Above it, such a subscription starts at the head.
pub const CATCH_UP_BUFFER_ENTRIES_MAX: usize = 1_000;
/// Users of a presence channel in one membership update.
pub const UPDATED_USERS_MAX: usize = 100;
/// Changes of a roster during its read. Above it, the roster is read again.
pub const ROSTER_CHANGES_MAX: usize = 10_000;
/// Time after a loss of members in Redis in which all nodes report theirs again.
pub const ROSTER_DELAY: Duration = Duration::from_secs(3);
/// Occupied channels of an app, over all nodes, and channels of an app on one node.
pub const OCCUPIED_CHANNELS_MAX: u64 = 100_000;
/// Largest `max_occupied_channels` of an app.
pub const OCCUPIED_CHANNELS_CEILING: u64 = 10_000_000;
/// Time for which a node stays subscribed to the topic of a channel without local
/// subscribers.
pub const LINGER: Duration = Duration::from_secs(5);

// --- Redis ----------------------------------------------------------------------

/// Time for which updates of a swept incarnation are refused. TCP repeats a segment for up to
/// 16 minutes; nodes never use an incarnation again.
pub const SWEPT_TTL: Duration = Duration::from_secs(60 * 60);
/// Added to the sequence numbers that a node knows when another Redis process answers, in
/// microseconds: its clock may be behind that of the last one, and other nodes may have received
/// later numbers since the last renewal of the lease. New numbers must exceed all of them.
pub const EPOCH_MARGIN: u64 = 60_000_000;
/// Partitions of all channels. Part of every key: can never change.
pub const PARTITIONS: usize = 256;
/// Entries in a channel's history (design.md 3). Redis removes an eighth at once. With
/// 500 single events per second the rest covers more than the last five seconds: the
/// time that a client needs to reconnect.
pub const LOG_ENTRIES_MAX: usize = 3_000;
/// Bytes of a channel's history (design.md 3).
pub const LOG_BYTES_MAX: usize = 1024 * 1024;
/// Age of a channel's history (design.md 3).
pub const LOG_AGE_MAX: Duration = Duration::from_secs(60);
/// Time without an entry after which a channel's head expires.
pub const HEAD_IDLE_MAX: Duration = Duration::from_secs(3_600);
/// Time for the reply to one attempt of a script.
pub const SCRIPT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which attempts of one operation may begin. After it: 503 `outcome_unknown`.
pub const SCRIPT_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two checks of a connection that is reconnecting.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Commands in the queue of one Redis connection. Above it: 503.
pub const REDIS_COMMANDS_MAX: usize = 20_000;
/// Connections that run scripts; all scripts of a channel use the same one.
pub const REDIS_CONNECTIONS: usize = 4;
/// Time that a starting node waits for Redis.
pub const REDIS_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests to subscribe to topics, or to unsubscribe, in the queue of the listening
/// task.
pub const LISTEN_REQUESTS_MAX: usize = 64 * 1024;
/// Topics in one SUBSCRIBE: more would exceed the server's output buffer limit.
pub const SUBSCRIBE_TOPICS_MAX: usize = 512;
/// Messages that the Redis client buffers before it drops some and reports the loss.
pub const REDIS_MESSAGES_MAX: usize = 4 * 1024;
/// The same for connections that run scripts, which report reconnects only.
pub const REDIS_EVENTS_MAX: usize = 64;
/// Concurrent gap repairs of a node: reads of histories.
pub const REPAIRS_MAX: usize = 32;
/// Concurrent reads of rosters by a node.
pub const ROSTER_READS_MAX: usize = 32;
/// Bytes of histories that a node reads per [`POSITION_CHECK_INTERVAL`]. Above it, a
/// channel continues at its head, and the gap counts as not repaired.
pub const REPAIR_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Entries buffered during the repair of a channel's gap.
pub const REPAIR_BUFFER_ENTRIES_MAX: usize = 1_000;
/// Time in which every channel with a topic subscription is compared with its head.
pub const POSITION_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Time in which every channel's membership is reported again.
pub const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(60);
/// Time without a change of its lease counter after which a node is dead.
pub const LEASE_EXPIRY: Duration = Duration::from_secs(8);
/// Interval at which a node increments its lease counter. Short: the expiry, two
/// intervals and the sweep have to fit in the promised ten seconds, on a busy machine
/// too.
pub const LEASE_INTERVAL: Duration = Duration::from_millis(250);
/// Partitions of a dead node that are swept concurrently.
pub const SWEEPS_MAX: usize = 32;
/// Channels in one page of a sweep, and users in one page of a roster.
pub const SWEEP_CHANNELS: usize = 128;
/// Users of a dead node removed from one channel in one script call.
pub const SWEEP_USERS: usize = 100;
/// Channels in one page of the index.
pub const LISTED_CHANNELS_MAX: usize = 1_000;
/// Partitions whose index one query reads concurrently.
pub const LISTINGS_MAX: usize = 8;
/// Time until a node has received its own probe; otherwise it reconnects its listening
/// connection.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the probes.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Interval of the probes of each connection to Redis.
pub const LINK_INTERVAL: Duration = Duration::from_secs(1);
/// Intervals without an answer to its probe after which a connection is opened again.
pub const LINK_INTERVALS_MAX: u32 = 3;
/// Time within which sent bytes must be acknowledged by the machine of Redis; otherwise the operating
/// system closes the connection. A blocked connection could not be opened again: the client waits until it has
/// written.
pub const LINK_RECEIPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Expiry of the key that the probes write.
pub const LINK_PROBE_TTL: Duration = Duration::from_secs(10);
/// Pause between two new connections for a Redis that refuses writes as a process: as a replica, or
/// because it cannot save its data. The address may lead to another one by now.
pub const LINK_REFUSAL_PAUSE: Duration = Duration::from_secs(5);
/// Characters of an unknown refusal that `/ready` and the log report.
pub const LINK_REFUSAL_CHARS_MAX: usize = 200;
/// Interval at which a node compares its readiness with the last logged one.
pub const READINESS_INTERVAL: Duration = Duration::from_millis(250);
/// Interval at which a node reads the memory of Redis.
pub const REDIS_MEMORY_INTERVAL: Duration = Duration::from_secs(5);
/// Percentage of its `maxmemory` above which a node warns of a full Redis.
pub const REDIS_MEMORY_WARNING_PERCENT: u64 = 90;
/// Percentage below which the warning ends.
pub const REDIS_MEMORY_CLEAR_PERCENT: u64 = 85;
/// Reasons of one outage of Redis that are logged.
pub const REDIS_OUTAGE_REASONS_MAX: usize = 8;
/// Outage of Redis before `/ready` fails: a short one must not remove every node from
/// the load balancer.
pub const READY_GRACE: Duration = Duration::from_secs(3);

/// The times after which a node notices a fault. The setting `test.speedup` divides them, for
/// tests to which their length does not matter; their relations stay the same.
#[derive(Debug, Clone, Copy)]
pub struct DetectionTimes {
    /// [`LEASE_EXPIRY`]
    pub lease_expiry: Duration,
    /// [`LEASE_INTERVAL`]
    pub lease_interval: Duration,
    /// [`PROBE_TIMEOUT`]
    pub probe_timeout: Duration,
    /// [`PROBE_INTERVAL`]
    pub probe_interval: Duration,
    /// [`LINK_INTERVAL`]
    pub link_interval: Duration,
    /// [`READY_GRACE`]
    pub ready_grace: Duration,
    /// [`POSITION_CHECK_INTERVAL`]
    pub position_check_interval: Duration,
}

impl Default for DetectionTimes {
    fn default() -> DetectionTimes {
        DetectionTimes::divided_by(1)
    }
}

impl DetectionTimes {
    pub fn divided_by(speedup: u32) -> DetectionTimes {
        DetectionTimes {
            lease_expiry: LEASE_EXPIRY / speedup,
            lease_interval: LEASE_INTERVAL / speedup,
            probe_timeout: PROBE_TIMEOUT / speedup,
            probe_interval: PROBE_INTERVAL / speedup,
            link_interval: LINK_INTERVAL / speedup,
            ready_grace: READY_GRACE / speedup,
            position_check_interval: POSITION_CHECK_INTERVAL / speedup,
        }
    }
}

/// The share of one partition in `max` occupied channels of an app. Names are distributed by a hash:
/// the share exceeds the mean by four standard deviations, so that no partition is full before the
/// app has about `max` channels, and an app has at most a fifth more for the default of `max`.
pub fn occupied_max_of_partition(max: u64) -> u64 {
    let mean = max as f64 / PARTITIONS as f64;
    (mean + 4.0 * mean.sqrt()).ceil() as u64
}

const _: () = assert!(PARTITIONS == 256, "the partition is one byte of a hash");
const _: () = assert!(SCRIPT_ATTEMPT_TIMEOUT.as_millis() * 2 <= SCRIPT_DEADLINE.as_millis());
const _: () =
    assert!(SCRIPT_DEADLINE.as_millis() < LOG_AGE_MAX.as_millis(), "a resend is checked against the history");
const _: () = assert!(SOCKET_SUBSCRIPTIONS_MAX as u64 * SUBSCRIBE_COST_BYTES < SUBSCRIBE_BUDGET_BYTES as u64);
const _: () = assert!(LEASE_INTERVAL.as_millis() * 4 <= LEASE_EXPIRY.as_millis());
const _: () = assert!(WEBHOOK_STOP_TIMEOUT.as_millis() <= WEBHOOK_LEASE.as_millis());
const _: () = assert!(WEBHOOK_INTERVAL.as_millis() * 4 <= WEBHOOK_LEASE.as_millis());
const _: () = assert!(WEBHOOK_ENDPOINT_CALLS_MAX * 4 <= WEBHOOK_CALLS_MAX, "no webhook uses all calls");
const _: () = assert!(PAYLOAD_BYTES_MAX * JSON_ESCAPE_FACTOR < MESSAGE_BYTES_MAX);
const _: () = assert!(CATCH_UP_BUFFER_ENTRIES_MAX <= LOG_ENTRIES_MAX);
const _: () = assert!(LISTED_CHANNELS_MAX <= 1_000, "a script passes them on with unpack");
const _: () = assert!(JSON_DEPTH_MAX < 128, "serde_json recurses to 128");
const _: () =
    assert!(FILTER_COST_MAX <= CHANNEL_FILTERS_COST_MAX / 4, "a channel has room for several filters");
const _: () = assert!(FILTER_NODES_MAX <= FILTER_COST_MAX / 8, "a filter may have the most comparisons");
const _: () = assert!(FILTER_BACKLOG_RECOVERY.as_millis() > POSITION_CHECK_INTERVAL.as_millis());
const _: () = assert!(2 * FILTER_DEPTH_MAX < JSON_DEPTH_MAX, "a node is two levels of JSON, a compound one");
