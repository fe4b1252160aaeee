//! The attacks, each bounded in connections and bytes. They run on a thread of their own until they
//! are stopped.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::victim::{PARTITION, channels_of};

use crate::Outcome;
use crate::frames::masked_text;
use crate::http_client::{APP, App, HttpClient};
use crate::ws_client::WsClient;

#[derive(Debug, Clone, Copy)]
pub enum Attack {
    /// A stranger subscribes nine sockets to 10,000 channels each.
    Subscriptions,
    /// The same with two sockets and long names, on a Redis with little memory.
    RedisMemory,
    /// A stranger sends queries with thousands of parameters.
    Queries,
    /// An app filters events with long tags by 300 expensive filters.
    Filters,
    /// The same with filters of 20 searches that take the longest: as many as the limits allow.
    AllowedFilters,
    /// An app publishes batches of ten events to a hundred channels each.
    Batches,
    /// An app publishes events to a hundred channels each from 32 connections at once.
    ConcurrentBatches,
    /// A stranger resumes a channel with a long history again and again.
    Resumes,
    /// A client of an app whose receivers hang subscribes to channels of one partition.
    Webhooks,
    /// A stranger pipelines requests on 190 connections and reads no response.
    UnreadResponses,
}

/// The app whose receivers hang.
const HANGING: App = App { id: "3", key: "hanging-key", secret: "hanging-secret" };

#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub address: SocketAddr,
}

/// A running attack.
#[derive(Debug)]
pub struct Flood {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Outcome<()>>,
}

impl Attack {
    pub const ALL: [Attack; 10] = [
        Attack::Subscriptions,
        Attack::RedisMemory,
        Attack::Queries,
        Attack::Filters,
        Attack::AllowedFilters,
        Attack::Batches,
        Attack::ConcurrentBatches,
        Attack::Resumes,
        Attack::Webhooks,
        Attack::UnreadResponses,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Attack::Subscriptions => "subscriptions",
            Attack::RedisMemory => "Redis memory",
            Attack::Queries => "queries",
            Attack::Filters => "filters",
            Attack::AllowedFilters => "allowed filters",
            Attack::Batches => "batches",
            Attack::ConcurrentBatches => "concurrent batches",
            Attack::Resumes => "resumes",
            Attack::Webhooks => "webhooks",
            Attack::UnreadResponses => "unread responses",
        }
    }

    /// Arguments of Redis.
    pub fn redis_arguments(self) -> &'static [&'static str] {
        match self {
            Attack::RedisMemory => &["--maxmemory", "24mb"],
            _ => &[],
        }
    }

    /// Settings of the node, after those of the victim.
    pub fn settings(self, hanging: SocketAddr) -> String {
        match self {
            Attack::Filters | Attack::AllowedFilters => "[tag_filtering]\nenabled = true\n".to_owned(),
            Attack::Webhooks => {
                LazyLock::force(&HANGING_CHANNELS);
                let webhooks = vec![format!("{{ url = \"http://{hanging}\" }}"); 5].join(", ");
                format!(
                    "[[apps]]\nid = \"{}\"\nkey = \"{}\"\nsecret = \"{}\"\nwebhooks = [{webhooks}]\n",
                    HANGING.id, HANGING.key, HANGING.secret
                )
            }
            _ => String::new(),
        }
    }

    /// Starts the attack on a thread with a runtime of its own, so that it does not delay the
    /// victim's clients.
    pub fn start(self, target: Target) -> Outcome<Flood> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    ended = self.run(target) => ended,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Flood { stop, thread })
    }

    async fn run(self, target: Target) -> Outcome<()> {
        match self {
            Attack::Subscriptions => subscribe(target, 9, 40).await,
            Attack::RedisMemory => subscribe(target, 2, 199).await,
            Attack::Queries => queries(target).await,
            Attack::Filters => filters(target, 126, "a").await,
            Attack::AllowedFilters => filters(target, 20, "ab").await,
            Attack::Batches => batches(target, 1).await,
            Attack::ConcurrentBatches => batches(target, 32).await,
            Attack::Resumes => resumes(target).await,
            Attack::Webhooks => webhooks(target).await,
            Attack::UnreadResponses => unread_responses(target).await,
        }
    }
}

impl Flood {
    /// Fails if the attack could not be carried out.
    pub fn stop(self) -> Outcome<()> {
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| "the attack panicked")?
    }
}

fn command(event: &str, data: &Value) -> Vec<u8> {
    masked_text(json!({ "event": event, "data": data }).to_string().as_bytes())
}

async fn subscribe(target: Target, sockets: usize, name_len: usize) -> Outcome<()> {
    const CHANNELS: usize = 10_000;
    let mut floods = JoinSet::new();
    for socket in 0..sockets {
        let ws_client = WsClient::connect(target.address).await?;
        let frames = (0..CHANNELS).map(move |n| {
            let channel = format!("{socket}-{n}-{}", "x".repeat(name_len))[..name_len].to_owned();
            command("pusher:subscribe", &json!({ "channel": channel }))
        });
        floods.spawn(ws_client.flood(frames));
    }
    floods.join_all().await;
    Ok(())
}

async fn queries(target: Target) -> Outcome<()> {
    const CONNECTIONS: usize = 6;
    const PARAMETERS: usize = 3_900;
    let parameters: Vec<String> = (0..PARAMETERS).map(|n| format!("{n:x}")).collect();
    let request = format!(
        "GET /apps/{}/channels?auth_key={}&auth_timestamp=1&auth_version=1.0&auth_signature=0&a[]&{} \
         HTTP/1.1\r\nHost: {}\r\n\r\n",
        APP.id,
        APP.key,
        parameters.join("&")[..15_000].trim_end_matches('&'),
        target.address
    );
    let mut floods = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let request = request.clone();
        floods.spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let mut stream = TcpStream::connect(target.address).await?;
                while stream.write_all(request.as_bytes()).await.is_ok()
                    && stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0)
                {}
            }
        });
    }
    floods.join_all().await.into_iter().collect()
}

/// The tag of each event repeats `part`, and so does the beginning of each text that is searched.
async fn filters(target: Target, tests: usize, part: &str) -> Outcome<()> {
    const FILTERS: usize = 300;
    let mut floods = JoinSet::new();
    for n in 0..FILTERS {
        let ws_client = WsClient::connect(target.address).await?;
        let test = |test: usize| {
            let end = format!("{n:012b}{test:08b}").replace('0', "a").replace('1', "b");
            json!({ "key": "text", "cmp": "ct", "val": format!("{}bb{end}", part.repeat(20)) })
        };
        let filter = json!({ "op": "or", "nodes": (0..tests).map(test).collect::<Vec<Value>>() });
        let frame = command("pusher:subscribe", &json!({ "channel": "news", "tags_filter": filter }));
        floods.spawn(ws_client.flood(std::iter::once(frame)));
    }
    let mut publisher = HttpClient::connect(target.address).await?;
    let text = part.repeat(3_900 / part.len());
    let event = json!({ "name": "e", "channel": "news", "data": "{}", "tags": { "text": text } });
    let request = publisher.signed(&APP, "/events", &event.to_string())?;
    loop {
        publisher.send(&request).await?;
    }
}

async fn batches(target: Target, connections: usize) -> Outcome<()> {
    const EVENTS: usize = 10;
    const CHANNELS: usize = 100;
    const BYTES: usize = 10 * 1024;
    let event = |n: usize| {
        let channels: Vec<String> = (0..CHANNELS).map(|channel| format!("wide-{n}-{channel}")).collect();
        json!({ "name": "e", "channels": channels, "data": "x".repeat(BYTES) })
    };
    let mut floods = JoinSet::new();
    for _ in 0..connections {
        let mut publisher = HttpClient::connect(target.address).await?;
        // `batch_events` has one channel per event: an event with many channels is a request of its
        // own.
        let requests = (0..EVENTS).map(|n| publisher.signed(&APP, "/events", &event(n).to_string()));
        let requests = requests.collect::<Outcome<Vec<_>>>()?;
        floods.spawn(async move {
            loop {
                publisher.send_all(&requests).await?;
            }
        });
    }
    floods.join_all().await.into_iter().collect()
}

async fn resumes(target: Target) -> Outcome<()> {
    const SOCKETS: usize = 10;
    const EVENTS: usize = 90;
    let mut publisher = HttpClient::connect(target.address).await?;
    let event = json!({ "name": "e", "channel": "history", "data": "x".repeat(5 * 1024) }).to_string();
    let event = publisher.signed(&APP, "/events", &event)?;
    publisher.send(&event).await?;
    let mut ws_clients = Vec::new();
    for _ in 0..SOCKETS {
        let mut ws_client = WsClient::connect(target.address).await?;
        let subscribe = command("pusher:subscribe", &json!({ "channel": "history", "resume": true }));
        let confirmation = ws_client.request(&subscribe, r#"subscription_succeeded"}"#).await?;
        ws_clients.push((ws_client, resume_of(&confirmation)?));
    }
    for _ in 0..EVENTS {
        publisher.send(&event).await?;
    }
    let mut floods = JoinSet::new();
    for (mut ws_client, resume) in ws_clients {
        let unsubscribe = command("pusher:unsubscribe", &json!({ "channel": "history" }));
        let subscribe = command("pusher:subscribe", &json!({ "channel": "history", "resume": resume }));
        let frames = [unsubscribe, subscribe].concat();
        // One at a time: a client that does not read in time is closed.
        floods.spawn(async move {
            loop {
                ws_client.request(&frames, "subscription_succeeded").await?;
            }
        });
    }
    floods.join_all().await.into_iter().collect()
}

/// More channels than a node has webhook events of a partition in flight. Found before the attack
/// begins, because only one name in 256 is of the partition.
static HANGING_CHANNELS: LazyLock<Vec<String>> =
    LazyLock::new(|| channels_of(&HANGING, PARTITION, "page").into_iter().take(1_500).collect());

async fn webhooks(target: Target) -> Outcome<()> {
    const CHANNELS_PER_SOCKET: usize = 500;
    let mut floods = JoinSet::new();
    for channels in HANGING_CHANNELS.chunks(CHANNELS_PER_SOCKET) {
        let ws_client = WsClient::connect_to(target.address, &HANGING).await?;
        let frame = |channel: &String| command("pusher:subscribe", &json!({ "channel": channel }));
        let frames: Vec<Vec<u8>> = channels.iter().map(frame).collect();
        floods.spawn(ws_client.flood(frames.into_iter()));
    }
    floods.join_all().await;
    Ok(())
}

async fn unread_responses(target: Target) -> Outcome<()> {
    const CONNECTIONS: usize = 190;
    let mut floods = JoinSet::new();
    for _ in 0..CONNECTIONS {
        floods.spawn(async move {
            let requests = format!("GET /live HTTP/1.1\r\nHost: {}\r\n\r\n", target.address).repeat(1_000);
            loop {
                let mut stream = TcpStream::connect(target.address).await?;
                // Waits while the node takes no more.
                while stream.write_all(requests.as_bytes()).await.is_ok() {}
            }
        });
    }
    floods.join_all().await.into_iter().collect()
}

/// The position in a confirmation.
fn resume_of(confirmation: &str) -> Outcome<Value> {
    let start = confirmation.find(r#"{"channel""#).ok_or("there is no confirmation")?;
    let frame: Value = serde_json::from_str(&confirmation[start..])?;
    let data: Value = serde_json::from_str(frame["data"].as_str().ok_or("a confirmation has no data")?)?;
    Ok(json!({ "epoch": data["epoch"], "seq": data["seq"], "token": data["token"] }))
}
