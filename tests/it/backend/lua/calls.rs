//! Calls of scripts, with the server's limits as defaults.

use bytes::BufMut;
use fanfare::app::HookedEvents;
use fanfare::event::{Event, encode_events};

use super::stage::{key, words};

/// A script with its keys and arguments.
#[derive(Debug, Clone)]
pub struct Call {
    pub script: &'static str,
    pub keys: Vec<String>,
    pub arguments: Vec<Vec<u8>>,
}

pub fn call(script: &'static str, keys: &[&str], arguments: &[&str]) -> Call {
    Call { script, keys: keys.iter().map(|key| (*key).to_owned()).collect(), arguments: words(arguments) }
}

/// Incarnations have 16 characters.
pub const N1: &str = "node-a----------";
pub const N2: &str = "node-b----------";
pub const N3: &str = "node-c----------";
pub const NODES: [&str; 3] = [N1, N2, N3];

/// The run id of Redis.
pub const RUN: &str = "5a1c";

/// Rules as in `lua/include/occupancy.lua`: webhooks for these events, and whether count entries
/// and status entries are appended.
pub fn rules(hooked: &[&str], counts: bool, status: bool) -> String {
    let hooked = hooked.iter().map(|name| HookedEvents::of(name).unwrap());
    let hooked = hooked.fold(HookedEvents::default(), HookedEvents::union);
    format!("{} {}", hooked.0, u8::from(counts) | u8::from(status) << 1)
}

/// The first arguments of all scripts that append entries.
fn appending(id: [u8; 8]) -> Vec<Vec<u8>> {
    let mut arguments = vec![id.to_vec()];
    arguments.extend(words(&["0", "3000", "1048576", "60000", "3600000", RUN]));
    arguments
}

/// `publish_batch`
#[derive(Clone)]
pub struct Batch {
    pub id: [u8; 8],
    pub sent_ago_ms: Option<u64>,
    pub seen_seq: u64,
    pub run_id: &'static str,
    pub log_max: usize,
    pub log_age_ms: u64,
    pub head_idle_ms: u64,
    /// Cost, limit and length of the window in ms.
    pub charge: Option<(u64, u64, u64)>,
    /// Stores bases, with this limit of chains.
    pub keys_max: Option<u32>,
    pub publications: Vec<Publication>,
}

#[derive(Clone)]
pub struct Publication {
    channel: &'static str,
    wants_counts: bool,
    ttl_ms: Option<u64>,
    events: Vec<Event>,
}

pub fn event(data: &str) -> Event {
    Event::new("e", data.to_owned())
}

impl Batch {
    /// One event on one channel, with the server's limits.
    pub fn new(id: [u8; 8], channel: &'static str, data: &str) -> Batch {
        let (log_age_ms, head_idle_ms, charge) = (60_000, 3_600_000, None);
        let batch = Batch {
            id,
            sent_ago_ms: None,
            seen_seq: 0,
            run_id: RUN,
            log_max: 3_000,
            log_age_ms,
            head_idle_ms,
            charge,
            keys_max: None,
            publications: Vec::new(),
        };
        batch.and(channel, &[data])
    }

    pub fn and(mut self, channel: &'static str, bodies: &[&str]) -> Batch {
        let events = bodies.iter().map(|body| event(body)).collect();
        self.publications.push(Publication { channel, wants_counts: false, ttl_ms: None, events });
        self
    }

    /// Events with these conflation keys. The newest of each is stored as a base.
    pub fn of_chains(id: [u8; 8], channel: &'static str, keys_max: u32, events: &[(&str, &str)]) -> Batch {
        let mut batch = Batch { keys_max: Some(keys_max), ..Batch::new(id, channel, "") };
        let events = events.iter().map(|(key, data)| keyed(key, data));
        batch.publications[0].events = events.collect();
        batch
    }

    pub fn wanting_counts(mut self) -> Batch {
        for publication in &mut self.publications {
            publication.wants_counts = true;
        }
        self
    }

    /// Stores the last event of each channel.
    pub fn cached(mut self, ttl_ms: u64) -> Batch {
        for publication in &mut self.publications {
            publication.ttl_ms = Some(ttl_ms);
        }
        self
    }

    pub fn resent(mut self, ago_ms: u64) -> Batch {
        self.sent_ago_ms = Some(ago_ms);
        self
    }

    pub fn charged(mut self, cost: u64, limit: u64, window_ms: u64) -> Batch {
        self.charge = Some((cost, limit, window_ms));
        self
    }

    pub fn call(&self) -> Call {
        let keys = self
            .publications
            .iter()
            .flat_map(|publication| ["head", "log", "subs"].map(|kind| key(kind, publication.channel)));
        let keys = keys.chain(self.charge.map(|_| "rate".to_owned()));
        let with_bases = self.publications.iter().filter(|_| self.keys_max.is_some());
        let bases = with_bases
            .flat_map(|publication| ["bases", "base_order"].map(|kind| key(kind, publication.channel)));
        Call { script: "publish_batch", keys: keys.chain(bases).collect(), arguments: self.arguments() }
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        let mut arguments = vec![self.id.to_vec()];
        let (log_max, log_bytes_max) = (self.log_max as u64, 1024 * 1024);
        let numbers = [self.seen_seq, log_max, log_bytes_max, self.log_age_ms, self.head_idle_ms];
        arguments.extend(numbers.map(|number| number.to_string().into()));
        arguments.push(self.run_id.into());
        arguments.push(self.sent_ago_ms.map(|ms| ms.to_string()).unwrap_or_default().into());
        let (cost, limit, window_ms) = self.charge.unwrap_or_default();
        arguments.extend([cost, limit, window_ms].map(|number| number.to_string().into()));
        for publication in &self.publications {
            let last = publication.events.last().filter(|_| publication.ttl_ms.is_some());
            let last_bytes = last.map_or(0, |last| encode_events([last]).len());
            let mut descriptor = Vec::new();
            descriptor.put_u32(publication.events.len().try_into().unwrap());
            descriptor.put_u8(publication.wants_counts.into());
            descriptor.put_u32(last_bytes.try_into().unwrap());
            descriptor.put_u64(publication.ttl_ms.unwrap_or(0));
            descriptor.extend(self.keys_max.map(|keys_max| publication.bases(keys_max)).unwrap_or_default());
            arguments.push(descriptor);
            arguments.push(encode_events(&publication.events).to_vec());
        }
        arguments
    }
}

/// An event in a chain.
pub fn keyed(key: &str, data: &str) -> Event {
    Event { key: Some(key.to_owned().into()), ..event(data) }
}

impl Publication {
    /// The list of bases in the encoding of `lua/include/keep_bases.lua`.
    fn bases(&self, keys_max: u32) -> Vec<u8> {
        let mut out = keys_max.to_be_bytes().to_vec();
        let mut start = 0;
        for (index, event) in (0_u32..).zip(&self.events) {
            let bytes = u32::try_from(encode_events([event]).len()).unwrap();
            let key = event.key.clone().unwrap_or_default();
            if !self.events[index as usize + 1..].iter().any(|later| later.key == event.key) {
                out.extend([index, start, bytes].map(u32::to_be_bytes).concat());
                out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
                out.extend(&key);
            }
            start += bytes;
        }
        out
    }
}

/// `update_subscriptions`, and with users `update_members`.
#[derive(Debug, Clone)]
pub struct Update {
    pub channel: String,
    pub node: &'static str,
    pub replaced: &'static str,
    pub count: u64,
    pub rules: String,
    pub wants_last: bool,
    pub outbox_max: u64,
    pub grace_ms: u64,
    pub interval_ms: u64,
    pub members_max: u64,
    pub occupied_max: u64,
    pub users: Option<Vec<(String, u64, bool, String)>>,
}

impl Update {
    pub fn new(channel: &str, node: &'static str, count: u64) -> Update {
        Update {
            channel: channel.to_owned(),
            node,
            replaced: "",
            count,
            rules: rules(&[], false, false),
            wants_last: false,
            outbox_max: 10_000,
            grace_ms: 3_000,
            interval_ms: 5_000,
            members_max: 100,
            occupied_max: 0,
            users: None,
        }
    }

    /// An update of a presence channel, with the connections of users.
    pub fn members(channel: &str, node: &'static str, count: u64, users: &[(&str, u64)]) -> Update {
        let update = Update { users: Some(Vec::new()), ..Update::new(channel, node, count) };
        users
            .iter()
            .fold(update, |update, (user, count)| update.user(user, *count, true, &format!("\"{user}\"")))
    }

    pub fn user(mut self, user: &str, count: u64, is_new: bool, info: &str) -> Update {
        self.users.get_or_insert_default().push((user.into(), count, is_new, info.into()));
        self
    }

    pub fn with(self, rules: &str) -> Update {
        Update { rules: rules.to_owned(), ..self }
    }

    /// An update by a sweep, which does not have the rules.
    pub fn sweeping(self) -> Update {
        self.with("")
    }

    pub fn replacing(self, replaced: &'static str) -> Update {
        Update { replaced, ..self }
    }

    pub fn wanting_last(self) -> Update {
        Update { wants_last: true, ..self }
    }

    pub fn call(&self) -> Call {
        let channel = self.channel.as_str();
        let mut keys = ["head", "log", "subs"].map(|kind| key(kind, channel)).to_vec();
        keys.push(key("channels", self.node));
        keys.extend(["occupied", "counts", "outbox", "due", "apps", "consumer"].map(String::from));
        keys.push(key("swept", self.node));
        let mut arguments = appending(rand::random());
        arguments.extend(words(&[self.node, self.replaced, &self.count.to_string()]));
        arguments.extend(words(&[
            &channel_id(channel),
            &self.rules,
            if self.wants_last { "1" } else { "0" },
        ]));
        arguments.extend(words(&[&self.outbox_max.to_string(), &self.grace_ms.to_string()]));
        let Some(users) = &self.users else {
            arguments.extend(words(&["100", &self.interval_ms.to_string(), &self.occupied_max.to_string()]));
            return Call { script: "update_subscriptions", keys, arguments };
        };
        keys.push(key("users", channel));
        arguments.extend(words(&[&self.members_max.to_string(), &self.occupied_max.to_string()]));
        for (user, count, is_new, info) in users {
            arguments.extend(words(&[user, &count.to_string(), if *is_new { "1" } else { "0" }, info]));
        }
        Call { script: "update_members", keys, arguments }
    }
}

pub fn channel_id(channel: &str) -> String {
    key("1", channel)
}

/// `append_control_entry`
pub fn control_entry(channel: &str, kind: u8, body: &[u8], hooked: bool, outbox_max: u64) -> Call {
    let mut keys = ["head", "log"].map(|kind| key(kind, channel)).to_vec();
    keys.extend(["outbox", "apps", "consumer"].map(String::from));
    let mut arguments = appending(rand::random());
    arguments.extend(words(&[&kind.to_string()]));
    arguments.push(body.to_vec());
    arguments.push(if hooked { channel_id(channel).into() } else { Vec::new() });
    arguments.push(outbox_max.to_string().into());
    Call { script: "append_control_entry", keys, arguments }
}

/// `settle_due`
pub fn settle(channel: &str, transition: &str, outbox_max: u64) -> Call {
    let mut keys = ["head", "log", "subs", "users"].map(|kind| key(kind, channel)).to_vec();
    keys.extend(["outbox", "due", "apps", "consumer"].map(String::from));
    let mut arguments = appending(rand::random());
    arguments.extend(words(&[transition, &outbox_max.to_string()]));
    Call { script: "settle_due", keys, arguments }
}

/// `claim_webhook_outboxes`
pub fn claim(node: &str, lease_ms: u64, is_new: bool) -> Call {
    let arguments = [node, &lease_ms.to_string(), if is_new { "1" } else { "0" }, "1000"];
    call("claim_webhook_outboxes", &["consumer", "apps"], &arguments)
}

/// `read_webhook_outbox` of app 1
pub fn read_outbox(node: &str, after: &str, count_max: u64) -> Call {
    let arguments = [node, "1", after, &count_max.to_string(), "100"];
    call("read_webhook_outbox", &["consumer", "apps", "outbox", "due"], &arguments)
}

pub fn hold(node: &str, held: u64, requested: u64, max: u64) -> Call {
    let arguments = [node, &held.to_string(), &requested.to_string(), &max.to_string()];
    call("hold_connections", &["connections", "leases"], &arguments)
}

pub fn charge(cost: u64, limit: u64, window_ms: u64) -> Call {
    call("charge_app", &["rate"], &[&cost.to_string(), &limit.to_string(), &window_ms.to_string()])
}

pub fn list(from: &str, to: &str, count_max: u64) -> Call {
    call("list_occupied", &["occupied", "counts"], &[from, to, &count_max.to_string()])
}

pub fn read_cached(channel: &str) -> Call {
    call("read_cached", &[&key("head", channel)], &[])
}

pub fn read_log(channel: &str, after: [u8; 8]) -> Call {
    let keys = vec![key("head", channel), key("log", channel)];
    Call { script: "read_log", keys, arguments: vec![after.to_vec()] }
}

/// Sends the low 31 bits of the sequence number.
pub fn read_log_since(channel: &str, seq: u64, before_max: u64) -> Call {
    let seen = seq & 0x7fff_ffff;
    let keys = [key("head", channel), key("log", channel)];
    call("read_log_since", &[&keys[0], &keys[1]], &[&seen.to_string(), &before_max.to_string(), RUN])
}

/// `switch_deltas`
pub fn switch(channel: &str, on: bool) -> Call {
    let mut arguments = appending(rand::random());
    arguments.extend(words(&[if on { "on" } else { "off" }]));
    Call { script: "switch_deltas", keys: vec![key("head", channel), key("log", channel)], arguments }
}

pub fn open_epoch(channel: &str, epoch: u64, seen_seq: u64) -> Call {
    let keys = ["head", "bases", "base_order"].map(|kind| key(kind, channel));
    call("open_epoch", &keys.each_ref().map(String::as_str), &[&epoch.to_string(), &seen_seq.to_string()])
}

pub fn renew(node: &str, is_new: bool) -> Call {
    let keys = ["leases", "dead", "tokens", "seen", "schema"];
    call("renew_node", &keys, &[node, if is_new { "1" } else { "0" }, "key-a", "7", "4"])
}

pub fn mark_swept(node: &str) -> Call {
    call("mark_swept", &[&key("swept", node)], &["60000"])
}

pub fn probe() -> Call {
    call("probe_link", &["probe"], &["10000"])
}

pub fn fence(node: &str, counter: &str) -> Call {
    call("fence_node", &["leases", "dead"], &[node, counter])
}
