//! A Redis server with clients for scripts and for published entries.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fanfare::entry::{Body, Entry};

use super::calls::Call;
use super::client::{Client, bulk, items, number};
use super::source::Script;
use crate::support::resp::Reply;
use crate::support::{Redis, STEP_TIMEOUT, eventually};

pub struct Stage {
    pub redis: Redis,
    pub client: Client,
    /// Receives all published entries.
    subscriber: Client,
}

impl Stage {
    pub async fn start() -> Stage {
        let redis = Redis::start().await;
        let client = Client::connect(&redis).await;
        let mut subscriber = Client::connect(&redis).await;
        subscriber.command(&[b"PSUBSCRIBE", b"log:*"]).await;
        Stage { redis, client, subscriber }
    }

    pub async fn run(&mut self, call: &Call) -> Reply {
        self.client.eval(&Script::named(call.script), &call.keys, &call.arguments).await
    }

    /// All keys and values of Redis, byte for byte, without times to live.
    pub async fn dump(&mut self) -> BTreeMap<String, Reply> {
        let mut all = BTreeMap::new();
        for key in items(self.client.command(&[b"KEYS", b"*"]).await) {
            let dump = self.client.command(&[b"DUMP", key.text().as_bytes()]).await;
            all.insert(key.text(), dump);
        }
        all
    }

    /// The messages published since the last call, with their topics.
    pub async fn messages(&mut self) -> Vec<(String, Bytes)> {
        self.client.command(&[b"PUBLISH", b"log:marker", b""]).await;
        let mut messages = Vec::new();
        loop {
            let message = items(self.subscriber.next().await);
            let topic = message[2].text();
            if topic == "log:marker" {
                return messages;
            }
            messages.push((topic, bulk(&message[3]).into()));
        }
    }

    /// The bodies of the entries since the last call.
    pub async fn bodies(&mut self) -> Vec<Body> {
        let messages = self.messages().await.into_iter();
        messages.map(|(_, bytes)| Entry::decode(bytes).unwrap().read().unwrap()).collect()
    }

    /// The script fails with this error, and has neither written nor published anything.
    pub async fn assert_refused(&mut self, call: &Call, error: &str) {
        self.messages().await;
        let before = self.dump().await;
        let reply = self.run(call).await;
        let what = format!("{} with {:?}", call.script, call.keys);
        let Reply::Error(text) = &reply else { panic!("{what}: expected {error}, received {reply:?}") };
        // Redis 6.2 puts the script and a hyphen before the error.
        let has_code = text.split([' ', '-']).any(|word| word == error);
        assert!(has_code, "{what}: {text}");
        assert!(self.dump().await == before, "{what}: {text}, but it has written");
        assert_eq!(self.messages().await, [], "{what}: {text}, but it has published");
    }

    pub async fn head(&mut self, channel: &str, field: &str) -> u64 {
        number(&self.client.command(&[b"HGET", key("head", channel).as_bytes(), field.as_bytes()]).await)
    }

    pub async fn log(&mut self, channel: &str) -> Vec<Entry> {
        let entries = self.client.command(&[b"LRANGE", key("log", channel).as_bytes(), b"0", b"-1"]).await;
        items(entries).iter().map(|entry| Entry::decode(bulk(entry).into()).unwrap()).collect()
    }

    /// Checks the head's count of the history's bytes.
    pub async fn assert_log_bytes(&mut self, channel: &str) -> u64 {
        let actual: usize = self.log(channel).await.iter().map(|entry| entry.encode().len()).sum();
        let counted = self.head(channel, "log_bytes").await;
        assert_eq!(counted, actual as u64, "log_bytes of {channel}");
        counted
    }

    /// The webhook events in the outbox, each as `channel_occupied 1:a`, with further fields as
    /// ` user=7`.
    pub async fn webhook_events(&mut self) -> Vec<String> {
        let entries = items(self.client.command(&[b"XRANGE", b"outbox", b"-", b"+"]).await);
        let webhook_event = |entry: Reply| {
            let fields: Vec<String> = items(items(entry).remove(1)).iter().map(Reply::text).collect();
            assert_eq!([&*fields[0], &*fields[2]], ["address", "what"]);
            let more: String = fields[4..].chunks(2).map(|pair| format!(" {}", pair.join("="))).collect();
            format!("{} {}{more}", fields[3], fields[1])
        };
        entries.into_iter().map(webhook_event).collect()
    }

    /// The scheduled transitions, with the ms until they are due.
    pub async fn due(&mut self) -> Vec<(String, i64)> {
        let now_ms = i64::try_from(self.now_us().await / 1_000).unwrap();
        let entries = items(self.client.command(&[b"ZRANGE", b"due", b"0", b"-1", b"WITHSCORES"]).await);
        let entry = |pair: &[Reply]| (pair[0].text(), pair[1].text().parse::<i64>().unwrap() - now_ms);
        entries.chunks(2).map(entry).collect()
    }

    /// The fields of a hash.
    pub async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        let pairs = items(self.client.command(&[b"HGETALL", key.as_bytes()]).await);
        pairs.chunks(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
    }

    pub async fn keys(&mut self) -> Vec<String> {
        self.dump().await.into_keys().collect()
    }

    pub async fn exists(&mut self, key: &str) -> bool {
        self.client.command(&[b"EXISTS", key.as_bytes()]).await.integer() == 1
    }

    /// ms until the key expires.
    pub async fn ttl_ms(&mut self, key: &str) -> i64 {
        self.client.command(&[b"PTTL", key.as_bytes()]).await.integer()
    }

    /// Waits until the key has expired.
    pub async fn wait_until_expired(&mut self, key: &str) {
        eventually(key, STEP_TIMEOUT, async || match self.redis.command(&["EXISTS", key]).await.integer() {
            0 => Ok(()),
            _ => Err("the key exists".into()),
        })
        .await;
    }

    /// Waits until Redis's clock has advanced by `ms`.
    pub async fn wait_ms(&mut self, ms: u64) {
        let start = self.now_us().await;
        while self.now_us().await < start + ms * 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Moves the times of a channel's head and history into the past by `ms`.
    pub async fn age(&mut self, channel: &str, ms: u64) {
        let (head, log) = (key("head", channel), key("log", channel));
        for (index, entry) in self.log(channel).await.into_iter().enumerate() {
            let entry = Entry { time_ms: entry.time_ms - ms, ..entry }.encode();
            self.client.command(&[b"LSET", log.as_bytes(), index.to_string().as_bytes(), &entry]).await;
        }
        for field in ["time", "log_from", "aged"] {
            self.redis.command(&["HINCRBY", &head, field, &format!("-{ms}")]).await;
        }
    }

    pub async fn now_us(&mut self) -> u64 {
        let time = items(self.client.command(&[b"TIME"]).await);
        number(&time[0]) * 1_000_000 + number(&time[1])
    }

    /// Sets `maxmemory` to 1 byte, or removes the limit.
    pub async fn set_memory_full(&mut self, is_full: bool) {
        self.client.command(&[b"CONFIG", b"SET", b"maxmemory", if is_full { b"1" } else { b"0" }]).await;
    }
}

pub fn key(kind: &str, channel: &str) -> String {
    format!("{kind}:{channel}")
}

pub fn id(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
