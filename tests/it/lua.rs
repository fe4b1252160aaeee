//! Each script of `lua/` by itself, against a real Redis: what it returns, what
//! it refuses, and that a refusal has written nothing and announced nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use fanfare::announcement::{Announcement, AnnouncementId};
use fanfare::event::{Event, encode_events};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::resp::{self, Reply};
use crate::support::{PATIENCE, Redis, Server, bounded, events_of, eventually};
use crate::witness::Witness;

const FIND_ANNOUNCEMENT: &str = include_str!("../../lua/include/find_announcement.lua");

struct Script {
    name: &'static str,
    text: &'static str,
    /// It calls `find_announcement`.
    finds: bool,
}

const PUBLISH_BATCH: Script =
    Script { name: "publish_batch", text: include_str!("../../lua/publish_batch.lua"), finds: true };
const READ_LOG: Script =
    Script { name: "read_log", text: include_str!("../../lua/read_log.lua"), finds: true };
const ASSERT_SUBSCRIPTIONS: Script = Script {
    name: "assert_subscriptions",
    text: include_str!("../../lua/assert_subscriptions.lua"),
    finds: false,
};
const OPEN_EPOCH: Script =
    Script { name: "open_epoch", text: include_str!("../../lua/open_epoch.lua"), finds: false };
const RENEW_NODE: Script =
    Script { name: "renew_node", text: include_str!("../../lua/renew_node.lua"), finds: false };
const CONDEMN_NODE: Script =
    Script { name: "condemn_node", text: include_str!("../../lua/condemn_node.lua"), finds: false };

const ALL: [Script; 6] =
    [PUBLISH_BATCH, READ_LOG, ASSERT_SUBSCRIPTIONS, OPEN_EPOCH, RENEW_NODE, CONDEMN_NODE];

impl Script {
    /// As the server sends it.
    fn source(&self) -> String {
        if self.finds { [FIND_ANNOUNCEMENT, self.text].concat() } else { self.text.to_owned() }
    }

    /// Names of its keys or arguments, by the header: the word after `KEYS[…]`,
    /// such as `head`.
    fn declared(&self, what: &str) -> Vec<&str> {
        let header = self.text.split("]]\n").next().unwrap();
        let of_line = |line: &'static str| {
            let (_, name) = line.trim().strip_prefix(what)?.split_once(']')?;
            name.split_whitespace().next()
        };
        header.lines().filter_map(of_line).collect()
    }
}

// --- a client of its own, since keys and arguments are bytes ----------------------

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    async fn connect(redis: &Redis) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        Client { stream, read: Vec::new() }
    }

    async fn send(&mut self, words: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next reply or message.
    async fn next(&mut self) -> Reply {
        let read = async {
            loop {
                if let Some((reply, length)) = resp::reply(&self.read) {
                    self.read.drain(..length);
                    return reply;
                }
                assert_ne!(self.stream.read_buf(&mut self.read).await.unwrap(), 0, "redis has closed");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("redis answers in time")
    }

    async fn command(&mut self, words: &[&[u8]]) -> Reply {
        self.send(words).await;
        self.next().await
    }

    async fn eval(&mut self, script: &Script, keys: &[String], arguments: &[Vec<u8>]) -> Reply {
        let (source, count) = (script.source(), keys.len().to_string());
        let mut words: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), count.as_bytes()];
        words.extend(keys.iter().map(String::as_bytes));
        words.extend(arguments.iter().map(Vec::as_slice));
        self.command(&words).await
    }
}

#[track_caller]
fn items(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(items) => items,
        other => panic!("an array was expected, not {other:?}"),
    }
}

#[track_caller]
fn number(reply: &Reply) -> u64 {
    reply.text().parse().unwrap_or_else(|_| panic!("a number was expected, not {reply:?}"))
}

fn id(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

// --- one Redis with everything around it --------------------------------------------

struct Stage {
    redis: Redis,
    client: Client,
    /// Hears all announcements.
    ear: Client,
}

impl Stage {
    async fn set() -> Stage {
        let redis = Redis::start().await;
        let client = Client::connect(&redis).await;
        let mut ear = Client::connect(&redis).await;
        ear.command(&[b"PSUBSCRIBE", b"topic:*"]).await;
        Stage { redis, client, ear }
    }

    /// Everything that Redis holds, byte for byte, apart from times to live.
    async fn everything(&mut self) -> BTreeMap<String, Reply> {
        let mut all = BTreeMap::new();
        for key in items(self.client.command(&[b"KEYS", b"*"]).await) {
            let dump = self.client.command(&[b"DUMP", key.text().as_bytes()]).await;
            all.insert(key.text(), dump);
        }
        all
    }

    /// The bytes announced since the last call, with their topics.
    async fn heard(&mut self) -> Vec<(String, Bytes)> {
        self.client.command(&[b"PUBLISH", b"topic:marker", b""]).await;
        let mut heard = Vec::new();
        loop {
            let message = items(self.ear.next().await);
            let topic = message[2].text();
            if topic == "topic:marker" {
                return heard;
            }
            let Reply::Bulk(bytes) = &message[3] else { panic!("{message:?}") };
            heard.push((topic, bytes.clone().into()));
        }
    }

    /// The script is refused with this error, and nothing has happened.
    async fn refused(&mut self, script: &Script, keys: &[String], arguments: &[Vec<u8>], error: &str) {
        self.heard().await;
        let before = self.everything().await;
        let reply = self.client.eval(script, keys, arguments).await;
        let what = format!("{} with {keys:?}", script.name);
        let Reply::Error(text) = &reply else { panic!("{what}: {error} was expected, not {reply:?}") };
        assert!(text.starts_with(error) || text.contains(&format!(" {error}")), "{what}: {text}");
        assert!(self.everything().await == before, "{what}: {text}, and something was written");
        assert_eq!(self.heard().await, [], "{what}: {text}, and something was announced");
    }

    async fn publish(&mut self, batch: &Batch) -> Reply {
        self.client.eval(&PUBLISH_BATCH, &batch.keys(), &batch.arguments()).await
    }

    /// The counts it returns.
    async fn published(&mut self, batch: &Batch) -> Vec<i64> {
        items(self.publish(batch).await).iter().map(Reply::integer).collect()
    }

    async fn head(&mut self, channel: &str, field: &str) -> u64 {
        number(&self.client.command(&[b"HGET", key("head", channel).as_bytes(), field.as_bytes()]).await)
    }

    async fn log(&mut self, channel: &str) -> Vec<Announcement> {
        let entries = self.client.command(&[b"LRANGE", key("log", channel).as_bytes(), b"0", b"-1"]).await;
        let bytes = |entry| match entry {
            Reply::Bulk(bytes) => Announcement::decode(bytes.into()).unwrap(),
            other => panic!("{other:?}"),
        };
        items(entries).into_iter().map(bytes).collect()
    }

    /// What the head says of the log's bytes is what they are.
    async fn assert_log_bytes(&mut self, channel: &str) -> u64 {
        let real: usize = self.log(channel).await.iter().map(|entry| entry.encode().len()).sum();
        let told = self.head(channel, "log_bytes").await;
        assert_eq!(told, real as u64, "log_bytes of {channel}");
        told
    }

    async fn exists(&mut self, key: &str) -> bool {
        self.client.command(&[b"EXISTS", key.as_bytes()]).await.integer() == 1
    }

    /// Waits for what Redis forgets by itself.
    async fn expires(&mut self, key: &str) {
        eventually(key, PATIENCE, async || match self.redis.command(&["EXISTS", key]).await.integer() {
            0 => Ok(()),
            _ => Err("still there".into()),
        })
        .await;
    }

    /// Until Redis's clock has moved on by so much.
    async fn pass_ms(&mut self, ms: u64) {
        let start = self.now_us().await;
        while self.now_us().await < start + ms * 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn now_us(&mut self) -> u64 {
        let time = items(self.client.command(&[b"TIME"]).await);
        number(&time[0]) * 1_000_000 + number(&time[1])
    }

    async fn full(&mut self) {
        self.client.command(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    }

    async fn assert_count(&mut self, channel: &str, node: &str, count: u64) -> Reply {
        self.client
            .eval(&ASSERT_SUBSCRIPTIONS, &assert_keys(channel, node), &assert_args(channel, node, count))
            .await
    }
}

fn key(kind: &str, channel: &str) -> String {
    format!("{kind}:{channel}")
}

fn assert_keys(channel: &str, node: &str) -> Vec<String> {
    vec![key("head", channel), key("subs", channel), key("channels", node)]
}

fn assert_args(channel: &str, node: &str, count: u64) -> Vec<Vec<u8>> {
    vec![node.into(), count.to_string().into(), channel.into()]
}

fn read_keys(channel: &str) -> Vec<String> {
    vec![key("head", channel), key("log", channel)]
}

fn node_keys() -> Vec<String> {
    vec!["leases".into(), "dead".into()]
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// A call of `publish_batch`.
#[derive(Clone)]
struct Batch {
    id: [u8; 8],
    sent_ago_ms: Option<u64>,
    seen_seq: u64,
    log_max: usize,
    log_age_ms: u64,
    head_idle_ms: u64,
    runs: Vec<Run>,
}

#[derive(Clone)]
struct Run {
    channel: &'static str,
    wants: bool,
    bodies: Vec<String>,
}

impl Batch {
    /// One event on one channel, with the bounds of the server.
    fn new(id: [u8; 8], channel: &'static str, data: &str) -> Batch {
        let runs = vec![Run { channel, wants: false, bodies: vec![data.into()] }];
        let (log_age_ms, head_idle_ms) = (60_000, 3_600_000);
        Batch { id, sent_ago_ms: None, seen_seq: 0, log_max: 1_000, log_age_ms, head_idle_ms, runs }
    }

    fn and(mut self, channel: &'static str, bodies: &[&str]) -> Batch {
        let bodies = bodies.iter().map(|body| (*body).to_owned()).collect();
        self.runs.push(Run { channel, wants: false, bodies });
        self
    }

    fn wanting_counts(mut self) -> Batch {
        for run in &mut self.runs {
            run.wants = true;
        }
        self
    }

    fn resent(mut self, ago_ms: u64) -> Batch {
        self.sent_ago_ms = Some(ago_ms);
        self
    }

    fn keys(&self) -> Vec<String> {
        self.runs.iter().flat_map(|run| ["head", "log", "subs"].map(|kind| key(kind, run.channel))).collect()
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        let mut arguments = vec![self.id.to_vec()];
        let sent_ago = self.sent_ago_ms.map(|ms| ms.to_string()).unwrap_or_default();
        arguments.push(sent_ago.into());
        let log_bytes_max = 1024 * 1024;
        for number in [self.seen_seq, self.log_max as u64, log_bytes_max, self.log_age_ms, self.head_idle_ms]
        {
            arguments.push(number.to_string().into());
        }
        for run in &self.runs {
            let event = |data: &String| Event {
                name: "e".into(),
                data: data.clone().into(),
                except: None,
                tags: None,
                delta: None,
                user: None,
            };
            let events: Vec<Event> = run.bodies.iter().map(event).collect();
            arguments.push(key("topic", run.channel).into());
            arguments.push(events.len().to_string().into());
            arguments.push(u8::from(run.wants).to_string().into());
            arguments.push(encode_events(&events).to_vec());
        }
        arguments
    }
}

#[track_caller]
fn data(announcement: &Announcement) -> Vec<String> {
    let events = events_of(announcement);
    events.into_iter().map(|event| String::from_utf8(event.data.to_vec()).unwrap()).collect()
}

// --- the headers --------------------------------------------------------------------

/// What the server sends has the keys and arguments that the headers declare.
#[tokio::test]
async fn headers_agree_with_the_code() {
    bounded(async {
        let redis = Redis::start().await;
        let mut client = Client::connect(&redis).await;
        let mut scripts = BTreeMap::new();
        for script in ALL {
            let sha = client.command(&[b"SCRIPT", b"LOAD", script.source().as_bytes()]).await.text();
            scripts.insert(sha, script);
        }
        let mut monitor = Client::connect(&redis).await;
        monitor.command(&[b"MONITOR"]).await;
        let server = Server::builder().redis(&redis).start().await;
        let caller = server.caller("1");
        let witness = &Witness::several(&server, 1, &["news", "sport"]).await[0];
        // Two channels in one call, and an old state of one of them.
        let batch = serde_json::json!([
            { "name": "e", "channel": "news", "data": "1", "info": "subscription_count" },
            { "name": "e", "channel": "sport", "data": "1" },
        ]);
        caller.post_batch(batch).await.expect_ok();
        witness.heard("news", "1").await;
        let found = |kind: &str| format!("fanfare:*:{kind}:1:news");
        let head = redis.command(&["KEYS", &found("head")]).await.text();
        let log = redis.command(&["KEYS", &found("log")]).await.text();
        for key in [&head, &log] {
            redis.command(&["COPY", key, &format!("old:{key}")]).await;
        }
        caller.publish("news", "e", "lost").await;
        witness.heard("news", "lost").await;
        // A fork: the log is read, and a new epoch opened.
        for key in [&head, &log] {
            redis.command(&["RENAME", &format!("old:{key}"), key]).await;
        }
        caller.publish("news", "e", "new").await;
        witness.heard("news", "new").await;
        // A node that nobody renews is condemned.
        redis.command(&["HSET", "fanfare:{nodes}:leases", "0123", "7"]).await;

        let mut missing: BTreeSet<&str> = ALL.iter().map(|script| script.name).collect();
        while !missing.is_empty() {
            let Ok(line) = tokio::time::timeout(PATIENCE, monitor.next()).await else {
                panic!("never called: {missing:?}")
            };
            let call = monitored(&line.text());
            let is_call = call.first().is_some_and(|word| word.eq_ignore_ascii_case("evalsha"));
            if !is_call {
                continue;
            }
            let script = scripts.get(&call[1]).expect("the server runs what is in lua/, and nothing else");
            let keys = call[2].parse::<usize>().unwrap();
            let (keys, arguments) = call[3..].split_at(keys);
            assert_agrees(script, keys, arguments);
            missing.remove(script.name);
        }
    })
    .await;
}

fn assert_agrees(script: &Script, keys: &[String], arguments: &[String]) {
    let what = format!("{}: {keys:?} {arguments:?}", script.name);
    let (key_names, argument_names) = (script.declared("KEYS["), script.declared("ARGV["));
    assert!(!key_names.is_empty() && !argument_names.is_empty(), "{what}");
    assert_eq!(keys.len() % key_names.len(), 0, "{what}");
    for (at, key) in keys.iter().enumerate() {
        let (_, kind) = key.split_once("}:").expect("every key has a hash tag");
        assert_eq!(kind.split(':').next(), Some(key_names[at % key_names.len()]), "{what}");
    }
    let tag = |key: &String| key[..key.find('}').unwrap()].to_owned();
    if script.name == "publish_batch" {
        // Seven, then four for each channel.
        assert_eq!(argument_names.len(), 7, "{what}");
        assert_eq!(arguments.len(), 7 + 4 * keys.len() / 3, "{what}");
        assert_eq!(arguments[3..7], ["1000", "1048576", "60000", "3600000"], "{what}");
        for (at, run) in arguments[7..].chunks(4).enumerate() {
            assert!(run[0].contains(":topic:") && tag(&run[0]) == tag(&keys[3 * at]), "{what}");
            assert!(["0", "1"].contains(&run[2].as_str()), "{what}");
        }
    } else {
        assert_eq!(keys.len(), key_names.len(), "{what}");
        assert_eq!(arguments.len(), argument_names.len(), "{what}");
        assert!(keys.iter().all(|key| tag(key) == tag(&keys[0])), "one slot: {what}");
    }
}

/// The words of a line of MONITOR: `1.2 [0 127.0.0.1:1] "GET" "a\"b"`.
fn monitored(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (&mut word, c) {
            (None, '"') => word = Some(String::new()),
            (Some(_), '"') => words.extend(word.take()),
            // What is escaped is not looked at.
            (Some(text), '\\') => text.extend(chars.next()),
            (Some(text), c) => text.push(c),
            (None, _) => {}
        }
    }
    words
}

// --- publish_batch --------------------------------------------------------------------

#[tokio::test]
async fn publish_batch_numbers_remembers_and_announces() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.assert_count("a", "n1", 2).await;
        stage.assert_count("a", "n2", 5).await;
        let before = stage.now_us().await;
        let first = Batch::new(id(1), "a", "1").and("b", &["2", "3"]).wanting_counts();
        assert_eq!(stage.published(&first).await, [7, 0]);
        let second = Batch::new(id(2), "b", "4").and("a", &["5", "6", "7"]);
        assert_eq!(stage.published(&second).await, [-1, -1]);

        let heard = stage.heard().await;
        let topics: Vec<&str> = heard.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(topics, ["topic:a", "topic:b", "topic:b", "topic:a"], "in their order");
        for (channel, at, expected) in
            [("a", [0, 3], [vec!["1"], vec!["5", "6", "7"]]), ("b", [1, 2], [vec!["2", "3"], vec!["4"]])]
        {
            let log = stage.log(channel).await;
            for n in 0..2 {
                let announced = &heard[at[n]].1;
                assert_eq!(&log[n].encode(), announced, "the log holds the very bytes");
                assert_eq!(data(&log[n]), expected[n]);
                assert_eq!(log[n].id.as_bytes(), id(n as u64 + 1));
            }
            let epoch = stage.head(channel, "epoch").await;
            assert!(epoch >= before && epoch < 1 << 53, "{epoch} is Redis's time in µs");
            assert_eq!((log[0].epoch, log[0].first_seq), (epoch, epoch + 1));
            assert_eq!(log[0].prev, AnnouncementId::NONE);
            assert_eq!((log[1].epoch, log[1].prev), (epoch, log[0].id));
            assert_eq!(log[1].first_seq, log[0].first_seq + u64::from(log[0].count), "no gap");
            assert_eq!(stage.head(channel, "seq").await, log[1].position().seq);
            assert_eq!(stage.head(channel, "time").await, log[1].time_ms);
            stage.assert_log_bytes(channel).await;
        }
    })
    .await;
}

#[tokio::test]
async fn publish_batch_with_a_key_of_another_type_writes_nothing() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        let batch = Batch::new(id(2), "a", "2").and("b", &["3"]).wanting_counts();
        for wrong in batch.keys() {
            let before = stage.client.command(&[b"EXISTS", wrong.as_bytes()]).await.integer();
            stage.client.command(&[b"RENAMENX", wrong.as_bytes(), b"aside"]).await;
            stage.client.command(&[b"SET", wrong.as_bytes(), b"text"]).await;
            stage.refused(&PUBLISH_BATCH, &batch.keys(), &batch.arguments(), "WRONGTYPE").await;
            stage.client.command(&[b"DEL", wrong.as_bytes()]).await;
            if before == 1 {
                stage.client.command(&[b"RENAME", b"aside", wrong.as_bytes()]).await;
            }
        }
        assert_eq!(stage.published(&batch).await, [0, 0], "all is well again");
    })
    .await;
}

#[tokio::test]
async fn publish_batch_in_full_memory_writes_nothing() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "old", "1").and("idle", &["1"])).await;
        // A channel that is there, one that is not, and a resend.
        for batch in [
            Batch::new(id(2), "old", "2").and("new", &["2"]),
            Batch::new(id(3), "new", "2").and("old", &["2"]),
            Batch::new(id(4), "old", "2").resent(0),
        ] {
            stage.pass_ms(1).await;
            stage.full().await;
            stage.refused(&PUBLISH_BATCH, &batch.keys(), &batch.arguments(), "OOM").await;
            stage.client.command(&[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn log_is_bounded_in_entries() {
    bounded(async {
        let mut stage = Stage::set().await;
        for n in 1..=1_005 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        let log = stage.log("a").await;
        assert_eq!(log.len(), 1_000);
        assert_eq!((data(&log[0]), data(&log[999])), (vec!["6".into()], vec!["1005".into()]));
        stage.assert_log_bytes("a").await;
        let trimmed = stage.log("a").await[0].time_ms;
        assert!(stage.head("a", "log_from").await <= trimmed);
    })
    .await;
}

#[tokio::test]
async fn log_is_bounded_in_bytes() {
    bounded(async {
        let mut stage = Stage::set().await;
        let large = "x".repeat(100_000);
        for n in 1..=25 {
            stage.published(&Batch::new(id(n), "a", &large)).await;
            let bytes = stage.assert_log_bytes("a").await;
            assert!(bytes <= 1024 * 1024, "{bytes}");
        }
        assert_eq!(stage.log("a").await.len(), 10, "no more was dropped than had to be");
        // One that is too large by itself is kept, alone, until the next one.
        stage.published(&Batch::new(id(26), "a", &"y".repeat(2_000_000))).await;
        assert_eq!(stage.log("a").await.len(), 1);
        assert!(stage.assert_log_bytes("a").await > 2_000_000);
        stage.published(&Batch::new(id(27), "a", "small")).await;
        let log = stage.log("a").await;
        assert_eq!((log.len(), data(&log[0])), (1, vec!["small".into()]));
        stage.assert_log_bytes("a").await;
    })
    .await;
}

#[tokio::test]
async fn log_is_bounded_in_age() {
    bounded(async {
        let mut stage = Stage::set().await;
        let aged = |n: u64| Batch { log_age_ms: 2_000, ..Batch::new(id(n), "a", &n.to_string()) };
        stage.published(&aged(1)).await;
        stage.pass_ms(1_200).await;
        stage.published(&aged(2)).await;
        stage.pass_ms(1_200).await;
        stage.published(&aged(3)).await;
        let log = stage.log("a").await;
        assert_eq!(log.first().map(data), Some(vec!["2".into()]), "the first is older than 2 s");
        assert_eq!(log.len(), 2);
        stage.assert_log_bytes("a").await;
    })
    .await;
}

/// The log of a channel in silence goes before its head.
#[tokio::test]
async fn log_that_has_expired_begins_anew() {
    bounded(async {
        let mut stage = Stage::set().await;
        let aged = |n: u64| Batch { log_age_ms: 40, ..Batch::new(id(n), "a", &n.to_string()) };
        for n in 1..=3 {
            stage.published(&aged(2 * n)).await;
            stage.expires("log:a").await;
            let epoch = stage.head("a", "epoch").await;
            // Long enough to be looked at.
            stage.published(&Batch { log_age_ms: 60_000, ..aged(2 * n + 1) }).await;
            assert_eq!(stage.head("a", "epoch").await, epoch);
            assert_eq!(stage.log("a").await.len(), 1);
            stage.assert_log_bytes("a").await;
        }
    })
    .await;
}

#[tokio::test]
async fn head_that_has_expired_begins_a_new_epoch() {
    bounded(async {
        let mut stage = Stage::set().await;
        let mut last = 0;
        for n in 1..=3 {
            let batch = Batch { head_idle_ms: 100_000, ..Batch::new(id(n), "a", &n.to_string()) };
            stage.published(&batch.and("a2", &["x", "y"])).await;
            let (epoch, seq) = (stage.head("a", "epoch").await, stage.head("a", "seq").await);
            assert!(epoch > last && seq == epoch + 1, "{epoch} {seq} after {last}");
            last = seq;
            let log = stage.log("a").await;
            assert_eq!((log.len(), data(&log[0])), (1, vec![n.to_string()]), "the old log is gone");
            assert_eq!(log[0].prev, AnnouncementId::NONE);
            stage.assert_log_bytes("a").await;
            let idle_ms = stage.client.command(&[b"PTTL", b"head:a"]).await.integer();
            assert!((1..=100_000).contains(&idle_ms), "it is forgotten after {idle_ms} ms in silence");
            // As if that time had passed.
            stage.client.command(&[b"PEXPIRE", b"head:a", b"1"]).await;
            stage.expires("head:a").await;
            assert!(stage.exists("log:a").await, "it lives longer");
        }
        // A node has seen higher numbers than the clock would give.
        let seen_seq = stage.now_us().await + 3_600_000_000;
        stage.published(&Batch { seen_seq, ..Batch::new(id(9), "a", "9") }).await;
        assert_eq!(stage.head("a", "seq").await, seen_seq + 1);
        assert_eq!(stage.log("a").await.len(), 1);
    })
    .await;
}

// --- resends ----------------------------------------------------------------------------

/// Nothing is applied by this call, and it is answered as if it had been.
async fn assert_not_applied(stage: &mut Stage, batch: &Batch, counts: &[i64]) {
    stage.heard().await;
    let before = stage.everything().await;
    assert_eq!(stage.published(batch).await, counts);
    assert!(stage.everything().await == before, "something was written");
    assert_eq!(stage.heard().await, []);
}

#[tokio::test]
async fn resend_that_is_found_in_the_log_is_not_applied() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.assert_count("a", "n1", 3).await;
        let batch = Batch::new(id(1), "a", "1").and("b", &["2"]).wanting_counts();
        stage.published(&batch).await;
        assert_not_applied(&mut stage, &batch.clone().resent(1_000), &[3, 0]).await;
        // However many came after it.
        for n in 2..=200 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        assert_not_applied(&mut stage, &batch.resent(1_000), &[3, 0]).await;
    })
    .await;
}

#[tokio::test]
async fn resend_that_is_not_in_a_log_that_covers_it_is_applied_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1").and("b", &["1"])).await;
        stage.pass_ms(30).await;
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]);
        stage.heard().await;
        assert_eq!(stage.published(&batch.clone().resent(20)).await, [-1, -1]);
        assert_eq!(stage.heard().await.len(), 2, "one announcement for each channel");
        assert_not_applied(&mut stage, &batch.clone().resent(20), &[-1, -1]).await;
        // The first attempt was on its way all the time.
        assert_not_applied(&mut stage, &batch, &[-1, -1]).await;
        // Also when the log no longer has the resend.
        stage.published(&Batch { log_max: 1, ..Batch::new(id(3), "a", "3") }).await;
        assert_eq!(stage.log("a").await.len(), 1);
        assert_not_applied(&mut stage, &batch, &[-1, -1]).await;
        let log = stage.log("b").await;
        assert_eq!(log.iter().flat_map(data).collect::<Vec<_>>(), ["1", "2"]);
    })
    .await;
}

/// Of many resends on one channel, the newest 32 are remembered.
#[tokio::test]
async fn late_first_attempts_of_several_resends_are_not_applied() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.pass_ms(30).await;
        for n in 2..=41 {
            stage.published(&Batch::new(id(n), "a", &n.to_string()).resent(20)).await;
        }
        for n in 10..=41 {
            assert_not_applied(&mut stage, &Batch::new(id(n), "a", &n.to_string()), &[-1]).await;
        }
        let resent = stage.client.command(&[b"HSTRLEN", b"head:a", b"resent"]).await.integer();
        assert_eq!(resent, 256, "it is bounded");
    })
    .await;
}

#[tokio::test]
async fn resend_that_no_log_covers_is_unknown() {
    bounded(async {
        let mut stage = Stage::set().await;
        // Nothing was ever announced here, as far as Redis knows.
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]).resent(60_000);
        stage.refused(&PUBLISH_BATCH, &batch.keys(), &batch.arguments(), "UNKNOWN").await;
        // The log has begun after the first attempt.
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.refused(&PUBLISH_BATCH, &batch.keys(), &batch.arguments(), "UNKNOWN").await;
        // It has begun before, and no longer reaches back so far.
        stage.published(&Batch::new(id(3), "c", "1")).await;
        stage.pass_ms(10).await;
        let first_sent = stage.now_us().await / 1_000;
        stage.pass_ms(1_000).await;
        for n in 4..=5 {
            stage.published(&Batch { log_max: 1, ..Batch::new(id(n), "c", "2") }).await;
        }
        let ago_ms = stage.now_us().await / 1_000 - first_sent;
        let batch = Batch::new(id(6), "c", "1").resent(ago_ms);
        stage.refused(&PUBLISH_BATCH, &batch.keys(), &batch.arguments(), "UNKNOWN").await;
    })
    .await;
}

// --- read_log ----------------------------------------------------------------------------

#[tokio::test]
async fn read_log_returns_what_came_after() {
    bounded(async {
        let mut stage = Stage::set().await;
        let nothing = items(stage.client.eval(&READ_LOG, &read_keys("a"), &[id(1).to_vec()]).await);
        assert_eq!(nothing, vec![Reply::Nil; 4], "no head, no log");
        for n in 1..=200 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        let log = stage.log("a").await;
        let head = log[199].position();
        // Every place of every page; 999 is nowhere.
        for after in (1..=200).chain([999]) {
            let mut reply = items(stage.client.eval(&READ_LOG, &read_keys("a"), &[id(after).to_vec()]).await);
            let entries = reply.split_off(4);
            assert_eq!((number(&reply[0]), number(&reply[1])), (head.epoch, head.seq));
            assert_eq!(reply[2], Reply::Bulk(id(200).to_vec()));
            assert_eq!(number(&reply[3]), head.time_ms);
            let from = if after == 999 { 0 } else { after as usize };
            assert_eq!(entries.len(), 200 - from, "after {after}");
            if let Some(entry) = entries.first() {
                assert_eq!(*entry, Reply::Bulk(log[from].encode().to_vec()), "after {after}");
            }
        }
    })
    .await;
}

// --- assert_subscriptions ------------------------------------------------------------------

#[tokio::test]
async fn assert_subscriptions_is_absolute() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        for (node, count, total) in [("n1", 3, 3), ("n1", 3, 3), ("n2", 4, 7), ("n1", 1, 5), ("n3", 0, 5)] {
            let reply = items(stage.assert_count("a", node, count).await);
            assert_eq!(reply.len(), 5);
            assert_eq!(number(&reply[1]), stage.head("a", "seq").await);
            assert_eq!(reply[2], Reply::Bulk(id(1).to_vec()));
            assert_eq!(reply[4].integer(), total, "{node} has {count}");
        }
        let reply = items(stage.assert_count("never", "n1", 1).await);
        assert_eq!(reply[..4], vec![Reply::Nil; 4], "nothing was announced there");
        assert_eq!(stage.redis.command(&["SMISMEMBER", "channels:n1", "a", "never"]).await.text(), "1 1");
        // A total that is wrong is right after the next call.
        stage.redis.command(&["HSET", "subs:a", "total", "99"]).await;
        assert_eq!(items(stage.assert_count("a", "n1", 1).await)[4].integer(), 5);
        assert_eq!(stage.redis.command(&["HGET", "subs:a", "total"]).await.text(), "5");
        // Whoever has none leaves nothing behind.
        for (node, total) in [("n1", 4), ("n2", 0), ("n2", 0)] {
            assert_eq!(items(stage.assert_count("a", node, 0).await)[4].integer(), total);
        }
        stage.assert_count("never", "n1", 0).await;
        let left: Vec<String> = stage.everything().await.into_keys().collect();
        assert_eq!(left, ["head:a", "log:a"]);
        assert_eq!(stage.heard().await.len(), 1, "the event alone");
    })
    .await;
}

#[tokio::test]
async fn leaving_works_in_full_memory_and_joining_does_not() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.assert_count("a", "n1", 3).await;
        stage.assert_count("a", "n2", 4).await;
        stage.full().await;
        for channel in ["a", "new"] {
            let (keys, args) = (assert_keys(channel, "n3"), assert_args(channel, "n3", 1));
            stage.refused(&ASSERT_SUBSCRIPTIONS, &keys, &args, "OOM").await;
        }
        assert_eq!(items(stage.assert_count("a", "n1", 0).await)[4].integer(), 4);
        assert_eq!(stage.redis.command(&["HMGET", "subs:a", "n1", "n2", "total"]).await.text(), " 4 4");
        assert_eq!(items(stage.assert_count("a", "n2", 0).await)[4].integer(), 0);
        assert_eq!(stage.everything().await.len(), 0);
    })
    .await;
}

// --- open_epoch -----------------------------------------------------------------------------

#[tokio::test]
async fn open_epoch_jumps_above_all_that_was_seen_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        let reply = stage.client.eval(&OPEN_EPOCH, &[key("head", "a")], &words(&["0", "5"])).await;
        assert_eq!(reply.integer(), 0, "there is no head to leave");
        assert!(!stage.exists("head:a").await);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        let (first, now) = (stage.head("a", "epoch").await, stage.now_us().await);
        let mut open = async |epoch: u64, seen: u64| {
            let args = words(&[&epoch.to_string(), &seen.to_string()]);
            stage.client.eval(&OPEN_EPOCH, &[key("head", "a")], &args).await.integer()
        };
        assert_eq!(open(first + 1, 0).await, 0, "another epoch than the one to leave");
        assert_eq!(open(first, 0).await, 1);
        assert_eq!(open(first, u64::MAX >> 12).await, 0, "somebody has done it");
        let second = stage.head("a", "epoch").await;
        assert!(second >= now && stage.head("a", "seq").await == second, "{second}");
        // Far above the clock; not written as 1.7e+15.
        let seen = second + 86_400_000_000;
        let args = words(&[&second.to_string(), &seen.to_string()]);
        assert_eq!(stage.client.eval(&OPEN_EPOCH, &[key("head", "a")], &args).await.integer(), 1);
        assert_eq!((stage.head("a", "epoch").await, stage.head("a", "seq").await), (seen, seen));
        // The next event goes on from there, and knows what was before it.
        stage.published(&Batch::new(id(2), "a", "2")).await;
        let log = stage.log("a").await;
        assert_eq!((log[1].epoch, log[1].first_seq, log[1].prev), (seen, seen + 1, log[0].id));
        stage.full().await;
        stage.refused(&OPEN_EPOCH, &[key("head", "a")], &words(&[&seen.to_string(), "0"]), "OOM").await;
    })
    .await;
}

// --- leases -----------------------------------------------------------------------------------

async fn lists(stage: &mut Stage, node: &str, is_new: &str) -> [BTreeMap<String, u64>; 2] {
    let reply = items(stage.client.eval(&RENEW_NODE, &node_keys(), &words(&[node, is_new])).await);
    assert_eq!(reply.len(), 2);
    let pairs = |list: &Reply| {
        let list = items(list.clone());
        list.chunks(2).map(|pair| (pair[0].text(), number(&pair[1]))).collect()
    };
    [pairs(&reply[0]), pairs(&reply[1])]
}

fn pairs<const N: usize>(pairs: [(&str, u64); N]) -> BTreeMap<String, u64> {
    pairs.into_iter().map(|(node, value)| (node.to_owned(), value)).collect()
}

async fn condemn(stage: &mut Stage, node: &str, counter: &str) -> i64 {
    stage.client.eval(&CONDEMN_NODE, &node_keys(), &words(&[node, counter])).await.integer()
}

#[tokio::test]
async fn leases_are_renewed_and_condemned() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.refused(&RENEW_NODE, &node_keys(), &words(&["n1", "0"]), "SWEPT").await;
        assert_eq!(lists(&mut stage, "n1", "1").await, [pairs([("n1", 1)]), pairs([])]);
        assert_eq!(lists(&mut stage, "n1", "0").await, [pairs([("n1", 2)]), pairs([])]);
        assert_eq!(lists(&mut stage, "n2", "1").await, [pairs([("n1", 2), ("n2", 1)]), pairs([])]);
        assert_eq!(condemn(&mut stage, "n1", "1").await, 0, "it has moved on");
        assert_eq!(condemn(&mut stage, "n3", "1").await, 0, "nobody knows it");
        assert_eq!(condemn(&mut stage, "n1", "2").await, 1);
        assert_eq!(condemn(&mut stage, "n1", "2").await, 0, "by somebody else already");
        stage.refused(&RENEW_NODE, &node_keys(), &words(&["n1", "0"]), "SWEPT").await;
        stage.pass_ms(20).await;
        let [leases, dead] = lists(&mut stage, "n2", "0").await;
        assert_eq!(leases, pairs([("n2", 2)]));
        assert_eq!(dead.keys().collect::<Vec<_>>(), ["n1"]);
        assert!((20..10_000).contains(&dead["n1"]), "ms since then: {dead:?}");
    })
    .await;
}

#[tokio::test]
async fn leases_go_on_in_full_memory() {
    bounded(async {
        let mut stage = Stage::set().await;
        lists(&mut stage, "n1", "1").await;
        lists(&mut stage, "n2", "1").await;
        stage.full().await;
        assert_eq!(lists(&mut stage, "n1", "0").await[0], pairs([("n1", 2), ("n2", 1)]));
        assert_eq!(lists(&mut stage, "n3", "1").await[0], pairs([("n1", 2), ("n2", 1), ("n3", 1)]));
        assert_eq!(condemn(&mut stage, "n2", "1").await, 1);
        let [leases, dead] = lists(&mut stage, "n1", "0").await;
        assert_eq!(leases, pairs([("n1", 3), ("n3", 1)]));
        assert!(dead.contains_key("n2"));
        stage.refused(&RENEW_NODE, &node_keys(), &words(&["n2", "0"]), "SWEPT").await;
    })
    .await;
}

/// A script with its keys and arguments.
type Call<'a> = (&'a Script, Vec<String>, Vec<Vec<u8>>);

/// Every key of every other script.
#[tokio::test]
async fn keys_of_another_type_are_an_error_and_nothing_is_written() {
    bounded(async {
        let mut stage = Stage::set().await;
        let calls: [Call<'_>; 7] = [
            (&READ_LOG, read_keys("a"), vec![id(1).to_vec()]),
            (&ASSERT_SUBSCRIPTIONS, assert_keys("a", "n1"), assert_args("a", "n1", 2)),
            (&ASSERT_SUBSCRIPTIONS, assert_keys("a", "n1"), assert_args("a", "n1", 0)),
            (&OPEN_EPOCH, vec![key("head", "a")], words(&["1", "1"])),
            (&RENEW_NODE, node_keys(), words(&["n1", "1"])),
            (&RENEW_NODE, node_keys(), words(&["n1", "0"])),
            (&CONDEMN_NODE, node_keys(), words(&["n1", "1"])),
        ];
        for (script, keys, arguments) in &calls {
            for wrong in keys {
                stage.redis.command(&["FLUSHALL"]).await;
                stage.published(&Batch::new(id(1), "a", "1")).await;
                stage.assert_count("a", "n1", 1).await;
                stage.assert_count("a", "n2", 1).await;
                lists(&mut stage, "n1", "1").await;
                stage.redis.command(&["SET", wrong, "text"]).await;
                stage.refused(script, keys, arguments, "WRONGTYPE").await;
            }
        }
    })
    .await;
}

// --- through a server ------------------------------------------------------------------------

/// Redis is full: publishers are told to come back, whoever leaves is gone, and
/// nothing has to be started again.
#[tokio::test]
async fn full_memory_is_backpressure() {
    bounded(async {
        let redis = Redis::start().await;
        let server = Server::builder().redis(&redis).start().await;
        let caller = server.caller("1");
        let witnesses = Witness::several(&server, 3, &["news"]).await;
        let leaving = Witness::several(&server, 2, &["left"]).await;
        caller.publish("news", "e", "before").await;
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let refused = serde_json::json!({ "name": "e", "channels": ["news", "new"], "data": "refused" });
        let answer = caller.post_events(refused).await;
        answer.expect_error(503, "backpressure");
        assert!(answer.header("retry-after").is_some());
        drop(leaving);
        caller.count_becomes("left", 0).await;
        // Whoever comes now waits.
        let mut late = Witness::connect(&server).await;
        late.ask_for("news").await;
        late.settle().await;
        assert_eq!(caller.subscription_count("news").await, 3);
        assert_eq!(server.get("/ready").await.status, 200);
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        late.until("its confirmation", PATIENCE, |record| record.confirmations("news") == 1).await;
        assert_eq!(caller.subscription_count("news").await, 4);
        caller.publish("news", "e", "after").await;
        for witness in &witnesses {
            witness.heard("news", "after").await;
            assert_eq!(witness.run("news"), ["before", "after"], "{}", witness.name);
        }
        late.heard("news", "after").await;
        assert_eq!(late.run("news"), ["after"]);
        assert_eq!(redis.command(&["EXISTS", "fanfare:{nodes}:leases"]).await.integer(), 1);
        assert_eq!(server.metrics().await.sum("fanfare_lease_lost_total"), 0.0);
    })
    .await;
}
