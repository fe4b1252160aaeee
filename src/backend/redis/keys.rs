//! All names in Redis. No other module constructs one (design.md 3 lists them).
//!
//! Each partition has a hash tag that is part of all its keys and topics, so that a script may
//! access all keys of a channel on a cluster too. The tags must not change while data exists.

use std::sync::LazyLock;

use fred::util::redis_keyslot;

use crate::backend::Charge;
use crate::channel::{ChannelId, Partition};
use crate::limits;

/// Constructs names with one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// The number of the database is part of the names, except 0: topics are common to all
    /// databases of a Redis.
    pub(super) fn new(prefix: &str, database: Option<u8>) -> Keys {
        match database {
            None | Some(0) => Keys { prefix: prefix.to_owned() },
            Some(database) => Keys { prefix: format!("{prefix}@{database}") },
        }
    }

    pub(super) fn head(&self, channel_id: &ChannelId) -> String {
        self.of_channel("head", channel_id)
    }

    /// The channel's history, and the topic of the same name, on which entries are published.
    pub(super) fn log(&self, channel_id: &ChannelId) -> String {
        self.of_channel("log", channel_id)
    }

    pub(super) fn subs(&self, channel_id: &ChannelId) -> String {
        self.of_channel("subs", channel_id)
    }

    /// The newest event of each of the channel's chains.
    pub(super) fn bases(&self, channel_id: &ChannelId) -> String {
        self.of_channel("bases", channel_id)
    }

    /// The conflation keys of these chains, in the order of their events.
    pub(super) fn base_order(&self, channel_id: &ChannelId) -> String {
        self.of_channel("base_order", channel_id)
    }

    /// The users of a presence channel.
    pub(super) fn users(&self, channel_id: &ChannelId) -> String {
        self.of_channel("users", channel_id)
    }

    /// The channel of a topic.
    pub(super) fn channel_id(&self, topic: &str) -> Option<ChannelId> {
        let rest = topic.strip_prefix(self.prefix.as_str())?.strip_prefix(":{")?;
        let (_tag, rest) = rest.split_once("}:log:")?;
        ChannelId::from_wire(rest)
    }

    /// Channels in one partition on which a node has subscriptions.
    pub(super) fn channels(&self, partition: Partition, node: &str) -> String {
        self.of_partition("channels", partition, node)
    }

    /// Present while updates of a dead node are refused in the partition.
    pub(super) fn swept(&self, partition: Partition, node: &str) -> String {
        self.of_partition("swept", partition, node)
    }

    /// Names of an app's occupied channels in one partition.
    pub(super) fn occupied(&self, partition: Partition, app: &str) -> String {
        self.of_partition("occupied", partition, app)
    }

    /// Counts of the channels in [`Keys::occupied`]: subscriptions and users.
    pub(super) fn counts(&self, partition: Partition, app: &str) -> String {
        self.of_partition("counts", partition, app)
    }

    /// The webhook outbox of an app in one partition.
    pub(super) fn outbox(&self, partition: Partition, app: &str) -> String {
        self.of_partition("outbox", partition, app)
    }

    /// Transitions of an app's channels in one partition to check again, by time.
    pub(super) fn due(&self, partition: Partition, app: &str) -> String {
        self.of_partition("due", partition, app)
    }

    /// The apps with [`Keys::outbox`] or [`Keys::due`], by the time of their next read.
    pub(super) fn webhook_apps(&self, partition: Partition) -> String {
        self.of_partition("webhooks", partition, "apps")
    }

    /// The consumer of the webhook outboxes.
    pub(super) fn consumer(&self, partition: Partition) -> String {
        self.of_partition("webhooks", partition, "consumer")
    }

    /// The use of a rate-limit window.
    pub(super) fn rate(&self, charge: &Charge) -> String {
        format!("{}:{{nodes}}:rate:{}:{}", self.prefix, charge.app, charge.account.name())
    }

    /// Connections of an app by node.
    pub(super) fn connections(&self, app: &str) -> String {
        format!("{}:{{nodes}}:connections:{app}", self.prefix)
    }

    pub(super) fn leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.prefix)
    }

    pub(super) fn dead(&self) -> String {
        format!("{}:{{nodes}}:dead", self.prefix)
    }

    /// The key that authenticates resume tokens.
    pub(super) fn tokens(&self) -> String {
        format!("{}:{{nodes}}:tokens", self.prefix)
    }

    /// A sequence number that no channel has exceeded.
    pub(super) fn seen(&self) -> String {
        format!("{}:{{nodes}}:seen", self.prefix)
    }

    pub(super) fn schema(&self) -> String {
        format!("{}:{{nodes}}:schema", self.prefix)
    }

    /// Settings of apps by id.
    pub(super) fn apps(&self) -> String {
        format!("{}:{{nodes}}:apps", self.prefix)
    }

    /// Ids of apps by key.
    pub(super) fn app_keys(&self) -> String {
        format!("{}:{{nodes}}:app_keys", self.prefix)
    }

    /// The topic that notifies nodes of changed apps.
    pub(super) fn apps_changed(&self) -> String {
        format!("{}:{{nodes}}:apps:changed", self.prefix)
    }

    /// The topic of a process's own probes, and the key that it writes on all of its connections.
    pub(super) fn probe(&self, process: &str) -> String {
        format!("{}:{{nodes}}:probe:{process}", self.prefix)
    }

    fn of_partition(&self, kind: &str, partition: Partition, name: &str) -> String {
        [&self.prefix, ":{", tag(partition), "}:", kind, ":", name].concat()
    }

    fn of_channel(&self, kind: &str, channel_id: &ChannelId) -> String {
        self.of_partition(kind, channel_id.partition(), channel_id.as_str())
    }
}

/// The hash tag of a partition: a short text whose slot is in the partition's share of the 16,384
/// slots, so that any number of shards receives an even part.
fn tag(partition: Partition) -> &'static str {
    static TAGS: LazyLock<Vec<String>> = LazyLock::new(tags);
    &TAGS[usize::from(partition.0)]
}

const SLOTS: usize = 16_384;

/// The first text for each partition, counting in base 36.
fn tags() -> Vec<String> {
    let mut tags = vec![String::new(); limits::PARTITIONS];
    let mut missing = tags.len();
    for number in 0.. {
        let text = base_36(number);
        let tag = &mut tags[slot(&text) / (SLOTS / limits::PARTITIONS)];
        if tag.is_empty() {
            *tag = text;
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags
}

fn slot(key: &str) -> usize {
    redis_keyslot(key.as_bytes()).into()
}

fn base_36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(number % 36, 36));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelName;

    fn channel_id(channel: &str) -> ChannelId {
        ChannelId::new("1", &ChannelName::parse(channel, 200).expect("a valid name"))
    }

    #[test]
    fn partition_tag_is_in_its_share_of_slots() {
        for partition in Partition::all() {
            assert_eq!(slot(tag(partition)) / 64, usize::from(partition.0));
        }
    }

    /// These names exist in production: after a change, nodes would not find their channels.
    #[test]
    fn key_names_are_stable() {
        let keys = Keys::new("fanfare", None);
        assert_eq!(keys.head(&channel_id("news")), "fanfare:{3e}:head:1:news");
        assert_eq!(keys.log(&channel_id("private-a:b@c")), "fanfare:{fp}:log:1:private-a:b@c");
        assert_eq!(keys.channels(Partition(0), "ab"), "fanfare:{cv}:channels:ab");
        let all = Partition::all().map(tag).collect::<Vec<_>>().join(",");
        assert_eq!(crate::auth::body_md5(all.as_bytes()), "6f80fcee307bd8065406400fe6250853");
    }

    #[test]
    fn channel_id_is_parsed_from_topic() {
        let keys = Keys::new("my:prefix", Some(0));
        for channel in ["news", "private-a:b", "a;b,c@d=e"] {
            let channel_id = channel_id(channel);
            assert_eq!(keys.channel_id(&keys.log(&channel_id)), Some(channel_id));
        }
        assert_eq!(keys.channel_id("my:prefix:{nodes}:probe:x"), None);
        assert_eq!(keys.channel_id("other:{0}:log:1:news"), None);
        let topic = keys.log(&channel_id("news"));
        assert_eq!(Keys::new("my:prefix", Some(1)).channel_id(&topic), None);
    }
}
