//! State shared by all actors of a run: published events, node addresses and
//! counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::payloads::Tags;

/// The channel names, and whether their events have conflation keys.
pub const CHANNELS: [(&str, bool); 10] = [
    ("plain-0", false),
    ("plain-1", false),
    ("plain-2", false),
    ("sync-0", false),
    ("vcdiff-0", false),
    ("off-0", false),
    ("keyed-0", true),
    ("keyed-1", true),
    ("keyed-sync-0", true),
    ("random-0", false),
];

pub const APP: &str = r#"{
    "keyed-*" = { conflation_key = "symbol", max_conflation_keys = 12 },
    "keyed-sync-*" = { conflation_key = "symbol", max_conflation_keys = 12, cache_sync = true },
    "sync-*" = { cache_sync = true },
    "vcdiff-*" = "xdelta3",
    "off-*" = "disabled" }"#;

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    /// Status 200: every subscriber gets it.
    Accepted,
    /// Unknown: it is published once, or never.
    Unknown,
    /// A definite error: no subscriber gets it.
    Refused,
}

/// A digest of name and payload, byte for byte.
pub type Print = [u8; 16];

pub fn print(name: &str, data: &str) -> Print {
    Md5::new().chain_update(name).chain_update([0xff]).chain_update(data).finalize().into()
}

#[derive(Debug)]
pub struct Published {
    pub print: Print,
    pub tags: Tags,
    pub except: Option<String>,
    pub outcome: Outcome,
}

/// The events published to a channel in this round, in order.
#[derive(Debug, Default)]
pub struct Log(pub Vec<Published>);

impl Log {
    /// The index up to which every outcome is known.
    pub fn settled(&self) -> usize {
        self.0.iter().position(|it| it.outcome == Outcome::Pending).unwrap_or(self.0.len())
    }
}

#[derive(Debug, Default)]
pub struct World {
    pub logs: Vec<Mutex<Log>>,
    /// By number; None while the node is down.
    pub nodes: Mutex<Vec<Option<SocketAddr>>>,
    /// The socket id of each client.
    pub sockets: Mutex<Vec<String>>,
    /// Clients neither unsubscribe nor disconnect nor send requests.
    pub calm: AtomicBool,
    /// The server's markers are of the style that clients leave in their bases.
    pub plain_markers: bool,
    pub totals: Totals,
    pub failures: Mutex<Vec<String>>,
    next_id: AtomicU64,
}

impl World {
    pub fn new(clients: usize, plain_markers: bool) -> World {
        World {
            plain_markers,
            logs: CHANNELS.iter().map(|_| Mutex::default()).collect(),
            sockets: Mutex::new(vec![String::new(); clients]),
            ..World::default()
        }
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn fail(&self, why: String) {
        self.totals.add("wrong");
        self.failures.lock().push(why);
    }

    pub fn live_nodes(&self) -> Vec<SocketAddr> {
        self.nodes.lock().iter().flatten().copied().collect()
    }
}

/// Counters, by name.
#[derive(Debug, Default)]
pub struct Totals(Mutex<BTreeMap<&'static str, u64>>);

impl Totals {
    pub fn add(&self, what: &'static str) {
        self.add_many(what, 1);
    }

    pub fn add_many(&self, what: &'static str, count: u64) {
        *self.0.lock().entry(what).or_default() += count;
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.lock().get(what).copied().unwrap_or(0)
    }

    pub fn text(&self) -> String {
        let pairs = self.0.lock().iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>();
        pairs.join(", ")
    }
}
