//! What all actors of a run share: what was published, where the nodes are, and
//! what was counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::payloads::Tags;

/// Name and whether its events have conflation keys.
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

/// Of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    /// Answered with 200: everyone gets it.
    Accepted,
    /// Nobody knows: it is published once, or never.
    Unknown,
    /// Answered with an error that says so: nobody gets it.
    Refused,
}

/// What a name and a payload are recognised by, byte for byte.
pub type Print = [u8; 16];

pub fn print(name: &str, data: &str) -> Print {
    Md5::new().chain_update(name).chain_update([0xff]).chain_update(data).finalize().into()
}

#[derive(Debug)]
pub struct Published {
    pub print: Print,
    /// For people.
    pub label: String,
    pub tags: Tags,
    pub except: Option<String>,
    pub outcome: Outcome,
}

/// What was published to a channel in this round, in order.
#[derive(Debug, Default)]
pub struct Log(pub Vec<Published>);

impl Log {
    /// Everything before is published, or never will be.
    pub fn settled(&self) -> usize {
        self.0.iter().position(|it| it.outcome == Outcome::Pending).unwrap_or(self.0.len())
    }
}

#[derive(Debug, Default)]
pub struct World {
    pub logs: Vec<Mutex<Log>>,
    /// By number; None while it is away.
    pub nodes: Mutex<Vec<Option<SocketAddr>>>,
    /// The socket id of each client.
    pub sockets: Mutex<Vec<String>>,
    /// Nobody leaves, drops or asks for anything.
    pub calm: AtomicBool,
    /// The server's markers are those that clients leave in their bases.
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

/// What was counted, by name.
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
