//! Recorded conversations (protocol.md 1, 2, 3.2 to 3.4, 3.10), replayed byte
//! for byte: each on a server of its own, and most on two nodes as well.
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
//! Sockets have names, `backend` speaks HTTP, `operator` has the processes. What
//! is indented belongs to the line above. Words in `<…>` are in `words.rs`; each
//! name stands for what it stood for when it first came, `<number>` for any
//! digits. Between what two different actors get there is no order.
//!
//! Each is held in Pusher's dialect, as it is written, and in Sockudo's, in which
//! only the names differ: `voice.rs`.
//!
//! To record anew, having written only what is said:
//! `RECORD_TRANSCRIPTS=1 cargo nextest run -E 'test(transcripts::)'`, and read
//! the difference.

mod answer;
mod complete;
mod play;
mod record;
mod script;
mod socket;
mod voice;
mod words;

use crate::support::{Backend, bounded};
use play::Play;
use script::Script;
use voice::Voice;

/// Each conversation as a test: those of the first list with one server and with
/// two nodes, of the second with one server, of the third with two nodes. In the
/// other voices one of them is enough: names do not travel between nodes.
macro_rules! conversations {
    (both: [$($both:ident),* $(,)?], memory: [$($memory:ident),* $(,)?], redis: [$($redis:ident),* $(,)?]) => {
        /// Those that have one server, or may.
        const OF_ONE: &[&str] = &[$(stringify!($both),)* $(stringify!($memory),)*];
        const OF_TWO_ONLY: &[&str] = &[$(stringify!($redis),)*];
        mod memory {
            $(conversations!(test $both Memory Written);)*
            $(conversations!(test $memory Memory Written);)*
        }
        mod redis {
            $(conversations!(test $both Redis Written);)*
            $(conversations!(test $redis Redis Written);)*
        }
        mod sockudo {
            $(conversations!(test $both Memory Sockudo);)*
            $(conversations!(test $memory Memory Sockudo);)*
            $(conversations!(test $redis Redis Sockudo);)*
        }
        mod crossed {
            $(conversations!(test $both Memory Crossed);)*
            $(conversations!(test $memory Memory Crossed);)*
        }
    };
    (test $name:ident $backend:ident $voice:ident) => {
        #[tokio::test]
        async fn $name() {
            super::hold(stringify!($name), crate::support::Backend::$backend, super::Voice::$voice).await;
        }
    };
}

conversations! {
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
        terminate,
        watchlist,
        watchlist_too_long,
    ],
    memory: [],
    redis: [
        redis_away,
        redis_full,
        redis_silent,
    ]
}

/// Replays the conversation, or records it where the environment says so.
async fn hold(name: &str, backend: Backend, voice: Voice) {
    let records = std::env::var_os("RECORD_TRANSCRIPTS").is_some();
    let script = Script::read(name);
    // One writes the file; the other is compared with it the next time.
    let is_first = backend == Backend::Memory || OF_TWO_ONLY.contains(&name);
    let writes = records && is_first && voice == Voice::Written;
    bounded(async {
        let mut play = Play::begin(&script, backend, voice).await;
        match (records, writes) {
            (true, true) => record::record(name, &script, &mut play).await,
            (true, false) => {}
            (false, _) => {
                if let Err(why) = play.replay(&script).await {
                    panic!("{why}\nwith the backend {backend:?}, {voice:?}");
                }
            }
        }
    })
    .await;
}
