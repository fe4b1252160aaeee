//! Recorded transcripts (protocol.md 1, 2, 3.2 to 3.4, 3.10), replayed and compared byte for
//! byte: each on a server of its own, and most also on a cluster of two nodes.
//!
//! ```text
//! # A comment; `app key = value` and `config key = value` are settings.
//! ann> connect /app/key1?protocol=7
//! ann< {"event":"pusher:connection_established",…"socket_id":"<ann>"…}
//! backend> POST /apps/1/events {"name":"e","channel":"news","data":"x"}
//!     header content-encoding: gzip
//! backend< 415 {…}
//! ann< close 4009 Why
//! ```
//!
//! Lines with `>` are sent to the server, lines with `<` are expected from it. Each begins with
//! its actor: the name of a socket, `backend` for HTTP requests, `operator` for actions on the
//! processes. Indented lines are details of the line above. `placeholders.rs` describes the
//! placeholders in `<…>`: a name keeps the value of its first occurrence, `<number>` matches any
//! digits. The order is compared per actor, not between actors.
//!
//! Each transcript is replayed with Pusher's event prefix, as written, and with Sockudo's, which
//! changes the names of events only: `event_prefix.rs`.
//!
//! To record a transcript of which only the lines with `>` are written, run
//! `RECORD_TRANSCRIPTS=1 cargo nextest run -E 'test(transcripts::)'` and review the diff.

mod complete;
mod event_prefix;
mod placeholders;
mod play;
mod record;
mod request;
mod script;
mod socket;

use crate::support::{Backend, bounded};
use event_prefix::PrefixMode;
use play::Play;
use script::Script;

/// Defines a test per transcript and backend: those in `both` run on one server and on a
/// cluster, those in `memory` on one server, those in `redis` on a cluster. With the other event
/// prefixes one backend is enough, because nodes do not exchange event names with a prefix.
macro_rules! transcripts {
    (both: [$($both:ident),* $(,)?], memory: [$($memory:ident),* $(,)?], redis: [$($redis:ident),* $(,)?]) => {
        /// Transcripts that run on one server.
        const SINGLE_NODE: &[&str] = &[$(stringify!($both),)* $(stringify!($memory),)*];
        /// Transcripts that run on a cluster only.
        const CLUSTER_ONLY: &[&str] = &[$(stringify!($redis),)*];
        mod memory {
            $(transcripts!(test $both Memory Written);)*
            $(transcripts!(test $memory Memory Written);)*
        }
        mod redis {
            $(transcripts!(test $both Redis Written);)*
            $(transcripts!(test $redis Redis Written);)*
        }
        mod sockudo {
            $(transcripts!(test $both Memory Sockudo);)*
            $(transcripts!(test $memory Memory Sockudo);)*
            $(transcripts!(test $redis Redis Sockudo);)*
        }
        mod crossed {
            $(transcripts!(test $both Memory Crossed);)*
            $(transcripts!(test $memory Memory Crossed);)*
        }
    };
    (test $name:ident $backend:ident $mode:ident) => {
        #[tokio::test]
        async fn $name() {
            super::run(stringify!($name), crate::support::Backend::$backend, super::PrefixMode::$mode).await;
        }
    };
}

transcripts! {
    both: [
        authorization_timeout,
        batch_events,
        broken_frames,
        cache,
        cache_ttl,
        channels,
        client_events,
        client_events_limited,
        client_events_terminated,
        conflation,
        connecting,
        connection_quota,
        delta_forms,
        delta_interval,
        delta_off,
        delta_refused_client,
        deltas,
        dialects,
        draining,
        encrypted,
        events,
        filters,
        http_auth,
        http_routes,
        keepalive,
        messages,
        messages_limited,
        messages_terminated,
        origins,
        path_prefix,
        presence,
        presence_refused,
        presence_signed_in,
        private,
        public,
        rates,
        read_rates,
        resume,
        rotation,
        signin,
        silence,
        subscription_count,
        subscriptions_refused,
        terminate,
        watchlist,
        watchlist_too_long,
    ],
    // The limits of filters are those of a node.
    memory: [
        filters_over_budget,
    ],
    redis: [
        redis_away,
        redis_full,
        redis_silent,
    ]
}

/// Replays a transcript, or records it if `RECORD_TRANSCRIPTS` is set.
async fn run(name: &str, backend: Backend, prefix_mode: PrefixMode) {
    let records = std::env::var_os("RECORD_TRANSCRIPTS").is_some();
    let script = Script::read(name);
    // One test writes the file. The others compare with it in the next run.
    let is_first = backend == Backend::Memory || CLUSTER_ONLY.contains(&name);
    let writes = records && is_first && prefix_mode == PrefixMode::Written;
    bounded(async {
        let mut play = Play::begin(&script, backend, prefix_mode).await;
        match (records, writes) {
            (true, true) => record::record(name, &script, &mut play).await,
            (true, false) => {}
            (false, _) => {
                if let Err(error) = play.replay(&script).await {
                    panic!("{error}\nwith the backend {backend:?} and event prefixes {prefix_mode:?}");
                }
            }
        }
    })
    .await;
}
