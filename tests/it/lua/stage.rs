//! One Redis with everything around it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fanfare::entry::{Body, Entry};

use super::calls::Call;
use super::client::{Client, bulk, items, number};
use super::source::Script;
use crate::support::resp::Reply;
use crate::support::{PATIENCE, Redis, eventually};

pub struct Stage {
    pub redis: Redis,
    pub client: Client,
    /// Hears all entries.
    ear: Client,
}

impl Stage {
    pub async fn set() -> Stage {
        let redis = Redis::start().await;
        let client = Client::connect(&redis).await;
        let mut ear = Client::connect(&redis).await;
        ear.command(&[b"PSUBSCRIBE", b"log:*"]).await;
        Stage { redis, client, ear }
    }

    pub async fn run(&mut self, call: &Call) -> Reply {
        self.client.eval(&Script::named(call.script), &call.keys, &call.arguments).await
    }

    /// Everything that Redis holds, byte for byte, apart from times to live.
    pub async fn everything(&mut self) -> BTreeMap<String, Reply> {
        let mut all = BTreeMap::new();
        for key in items(self.client.command(&[b"KEYS", b"*"]).await) {
            let dump = self.client.command(&[b"DUMP", key.text().as_bytes()]).await;
            all.insert(key.text(), dump);
        }
        all
    }

    /// The bytes announced since the last call, with their topics.
    pub async fn heard(&mut self) -> Vec<(String, Bytes)> {
        self.client.command(&[b"PUBLISH", b"log:marker", b""]).await;
        let mut heard = Vec::new();
        loop {
            let message = items(self.ear.next().await);
            let topic = message[2].text();
            if topic == "log:marker" {
                return heard;
            }
            heard.push((topic, bulk(&message[3]).into()));
        }
    }

    /// WebhookEventKind the entries since the last call say.
    pub async fn said(&mut self) -> Vec<Body> {
        let heard = self.heard().await.into_iter();
        heard.map(|(_, bytes)| Entry::decode(bytes).unwrap().read().unwrap()).collect()
    }

    /// The script is refused with this error, and nothing has happened.
    pub async fn refused(&mut self, call: &Call, error: &str) {
        self.heard().await;
        let before = self.everything().await;
        let reply = self.run(call).await;
        let what = format!("{} with {:?}", call.script, call.keys);
        let Reply::Error(text) = &reply else { panic!("{what}: {error} was expected, not {reply:?}") };
        assert!(text.starts_with(error) || text.contains(&format!(" {error}")), "{what}: {text}");
        assert!(self.everything().await == before, "{what}: {text}, and something was written");
        assert_eq!(self.heard().await, [], "{what}: {text}, and something was announced");
    }

    pub async fn head(&mut self, channel: &str, field: &str) -> u64 {
        number(&self.client.command(&[b"HGET", key("head", channel).as_bytes(), field.as_bytes()]).await)
    }

    pub async fn log(&mut self, channel: &str) -> Vec<Entry> {
        let entries = self.client.command(&[b"LRANGE", key("log", channel).as_bytes(), b"0", b"-1"]).await;
        items(entries).iter().map(|entry| Entry::decode(bulk(entry).into()).unwrap()).collect()
    }

    /// WebhookEventKind the head says of the log's bytes is what they are.
    pub async fn assert_log_bytes(&mut self, channel: &str) -> u64 {
        let real: usize = self.log(channel).await.iter().map(|entry| entry.encode().len()).sum();
        let told = self.head(channel, "log_bytes").await;
        assert_eq!(told, real as u64, "log_bytes of {channel}");
        told
    }

    /// The webhook_events in the outbox, each as `channel_occupied 1:a`, and what it has
    /// beyond these as ` user=7`.
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

    /// WebhookEventKind is to be looked at, with the ms from now.
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
        self.everything().await.into_keys().collect()
    }

    pub async fn exists(&mut self, key: &str) -> bool {
        self.client.command(&[b"EXISTS", key.as_bytes()]).await.integer() == 1
    }

    /// ms until Redis forgets the key.
    pub async fn ttl_ms(&mut self, key: &str) -> i64 {
        self.client.command(&[b"PTTL", key.as_bytes()]).await.integer()
    }

    /// Waits for what Redis forgets by itself.
    pub async fn expires(&mut self, key: &str) {
        eventually(key, PATIENCE, async || match self.redis.command(&["EXISTS", key]).await.integer() {
            0 => Ok(()),
            _ => Err("still there".into()),
        })
        .await;
    }

    /// Until Redis's clock has moved on by so much.
    pub async fn pass_ms(&mut self, ms: u64) {
        let start = self.now_us().await;
        while self.now_us().await < start + ms * 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// WebhookEventKind a channel has in Redis becomes so much older, all at once.
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

    /// No memory is left, or again as much as there is.
    pub async fn full(&mut self, is_full: bool) {
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
