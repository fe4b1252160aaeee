//! `members`: subscriptions, presence joins, mass disconnects and channel lists of a cluster
//! on Redis. Each rate is reported with the rate of bare Redis, measured in the same minute.

use std::future::Future;
use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::http_client::{APP, HttpClient};
use crate::journal::Journal;
use crate::record::{Faults, Record};
use crate::redis::Redis;
use crate::run::{Figures, percentile};
use crate::servers::{Cluster, Node};
use crate::ws_client::WsClient;
use crate::{Bench, Outcome};

/// Sockets, and subscriptions per socket.
const SOCKETS: usize = 100;
const CHANNELS_PER_SOCKET: usize = 200;
/// Few, because every join is broadcast to the existing members, and the join is what is
/// measured.
const MEMBERS_PER_CHANNEL: usize = 10;
/// Pipelined commands per connection, and number of connections, for the rate of bare Redis.
/// A node has as many connections to Redis.
const BARE_WINDOW: usize = 64;
const BARE_CONNECTIONS: usize = 4;
const BARE_WINDOWS: usize = 300;
/// New clients that connect during a mass disconnect.
const NEW_CLIENTS: usize = 500;
/// Channels per dropped connection, each with no other subscriber.
const DROPPED_CHANNELS: usize = 3;
const CONNECTS_MAX: usize = 64;
/// Sockets with `limits::SOCKET_SUBSCRIPTIONS_MAX` channels each, for the channel list.
const LISTED_SOCKETS: usize = 50;
const LISTED_CHANNELS: usize = 1_000;
const LISTINGS: usize = 10;

/// Runs all cases whose name contains `--only`, on two nodes.
pub async fn members(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    const CASES: [&str; 4] = ["subscribe", "join", "drop", "list"];
    for repeat in 0..bench.options.repeats {
        for case in CASES.into_iter().filter(|case| case.contains(&bench.options.only)) {
            let cluster = Cluster::start(&bench.fanfare(2), bench.cores()).await?;
            let (nodes, redis) = (&cluster.nodes, cluster.redis.as_ref().ok_or("there is no Redis")?);
            let figures = match case {
                "subscribe" => subscribe(nodes, redis).await?,
                "join" => join(nodes, redis).await?,
                "drop" => mass_disconnect(nodes, bench.options.dropped as usize).await?,
                _ => list(nodes, redis).await?,
            };
            journal.add(Record {
                table: case.into(),
                case: case.into(),
                server: cluster.contender.name.clone(),
                repeat,
                at: None,
                figures,
                faults: Faults::default(),
            })?;
        }
    }
    Ok(())
}

/// Subscriptions per second. Each socket subscribes to its own channels.
async fn subscribe(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let bare = bare_rate(redis).await?;
    let rate = rate(nodes, |mut ws_client, number| async move {
        let channels: Vec<String> = (0..CHANNELS_PER_SOCKET).map(|n| format!("own-{number}-{n}")).collect();
        ws_client.subscribe(&channels).await.map(|()| ws_client)
    })
    .await?;
    Ok(named([("subscriptions_per_second", rate), ("bare_sadd_per_second", bare)]))
}

/// Presence joins per second. Each socket is a different user.
async fn join(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let bare = bare_rate(redis).await?;
    let rate = rate(nodes, |mut ws_client, number| async move {
        let group = number / MEMBERS_PER_CHANNEL;
        let channels: Vec<String> =
            (0..CHANNELS_PER_SOCKET).map(|n| format!("presence-{group}-{n}")).collect();
        ws_client.join(&channels, &format!("user-{number}")).await.map(|()| ws_client)
    })
    .await?;
    Ok(named([("joins_per_second", rate), ("bare_sadd_per_second", bare)]))
}

/// Time for 500 new clients to connect and subscribe, on an idle node, and on the same node
/// while it removes the subscriptions of `dropped` connections.
async fn mass_disconnect(nodes: &[Node], dropped: usize) -> Outcome<Figures> {
    let quiet = connect_new(&nodes[0], "quiet").await?;
    let dropped_channels = dropped * DROPPED_CHANNELS;
    let connects = stream::iter(0..dropped).map(|n| async move {
        let mut ws_client = WsClient::connect(nodes[0].address).await?;
        let channels: Vec<String> =
            (0..DROPPED_CHANNELS).map(|channel| format!("dropped-{n}-{channel}")).collect();
        ws_client.subscribe(&channels).await?;
        Outcome::Ok(ws_client)
    });
    let ws_clients: Vec<WsClient> = connects.buffer_unordered(CONNECTS_MAX).try_collect().await?;
    let mut http_client = HttpClient::connect(nodes[1].address).await?;
    ws_clients.into_iter().try_for_each(WsClient::reset)?;
    let busy = connect_new(&nodes[0], "busy").await?;
    timed(&mut http_client, "/channels").await?;
    let left = http_client.count("\"dropped-");
    Ok(named([
        ("newcomer_ms_median", ms(&busy, 0.5)?),
        ("newcomer_ms_p99", ms(&busy, 0.99)?),
        ("quiet_ms_median", ms(&quiet, 0.5)?),
        ("quiet_ms_p99", ms(&quiet, 0.99)?),
        ("channels_dropped", dropped_channels as f64),
        ("channels_left_when_all_were_in", left as f64),
    ]))
}

/// Duration of `GET /channels` with 100,000 occupied channels, and the latency of Redis for
/// other clients during the request.
async fn list(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let fill = (0..LISTED_SOCKETS).zip(nodes.iter().cycle()).map(|(socket, node)| async move {
        let mut ws_client = WsClient::connect(node.address).await?;
        let channels: Vec<String> = (0..LISTED_CHANNELS).map(|n| format!("listed-{socket}-{n:05}")).collect();
        ws_client.subscribe(&channels).await.map(|()| ws_client)
    });
    let ws_clients: Vec<WsClient> = stream::iter(fill).buffer_unordered(LISTED_SOCKETS).try_collect().await?;
    let mut http_client = HttpClient::connect(nodes[0].address).await?;
    let mut times = Vec::new();
    let lists = async {
        for _ in 0..LISTINGS {
            times.push(timed(&mut http_client, "/channels").await?);
        }
        Outcome::Ok(())
    };
    let started = Instant::now();
    let busy = ping_times(redis, lists).await?;
    let duration = started.elapsed();
    let idle = async {
        sleep(duration).await;
        Outcome::Ok(())
    };
    let quiet = ping_times(redis, idle).await?;
    let mut channel_times = Vec::new();
    for _ in 0..LISTINGS {
        channel_times.push(timed(&mut http_client, "/channels/listed-0-00000").await?);
    }
    drop(ws_clients);
    Ok(named([
        ("list_ms_median", ms(&times, 0.5)?),
        ("one_channel_ms_median", ms(&channel_times, 0.5)?),
        ("redis_ping_ms_p99", ms(&busy, 0.99)?),
        ("redis_ping_ms_longest", ms(&busy, 1.0)?),
        ("quiet_ping_ms_p99", ms(&quiet, 0.99)?),
        ("quiet_ping_ms_longest", ms(&quiet, 1.0)?),
    ]))
}

fn named<const N: usize>(figures: [(&str, f64); N]) -> Figures {
    figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn ms(seconds: &[f64], share: f64) -> Outcome<f64> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(percentile(&sorted, share).ok_or("nothing was timed")? * 1e3)
}

/// Subscriptions per second over all sockets. Connecting is not part of the measured time.
async fn rate<F>(nodes: &[Node], subscribe: impl Fn(WsClient, usize) -> F) -> Outcome<f64>
where
    F: Future<Output = Outcome<WsClient>> + Send + 'static,
{
    let mut ws_clients = Vec::new();
    for (_, node) in (0..SOCKETS).zip(nodes.iter().cycle()) {
        ws_clients.push(WsClient::connect(node.address).await?);
    }
    let started = Instant::now();
    let mut work: JoinSet<_> =
        ws_clients.into_iter().zip(0..).map(|(it, number)| subscribe(it, number)).collect();
    // Members keep reading, because the joins of others are broadcast to them.
    let mut readers = JoinSet::new();
    while let Some(ws_client) = work.join_next().await {
        readers.spawn(ws_client??.read_until_closed());
    }
    Ok((SOCKETS * CHANNELS_PER_SOCKET) as f64 / started.elapsed().as_secs_f64())
}

/// `SADD` commands per second of bare Redis, pipelined over as many connections as a node has.
async fn bare_rate(redis: &Redis) -> Outcome<f64> {
    let mut connections = Vec::new();
    for _ in 0..BARE_CONNECTIONS {
        connections.push(redis.connect().await?);
    }
    let started = Instant::now();
    let mut work: JoinSet<Outcome<()>> = JoinSet::new();
    for (index, mut connection) in connections.into_iter().enumerate() {
        work.spawn(async move {
            for window in 0..BARE_WINDOWS {
                let command = |n| format!("SADD bare:{index}:{window} {n}\r\n");
                let commands: String = (0..BARE_WINDOW).map(command).collect();
                connection.request(&commands, BARE_WINDOW).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok((BARE_CONNECTIONS * BARE_WINDOWS * BARE_WINDOW) as f64 / started.elapsed().as_secs_f64())
}

/// Seconds of each new client from its connect to `subscription_succeeded`.
async fn connect_new(node: &Node, name: &str) -> Outcome<Vec<f64>> {
    let one = |n| async move {
        let started = Instant::now();
        let mut ws_client = WsClient::connect(node.address).await?;
        ws_client.subscribe(&[format!("{name}-{n}")]).await?;
        Outcome::Ok((ws_client, started.elapsed().as_secs_f64()))
    };
    let connects = stream::iter(0..NEW_CLIENTS).map(one).buffer_unordered(CONNECTS_MAX);
    let connected: Vec<(WsClient, f64)> = connects.try_collect().await?;
    Ok(connected.into_iter().map(|(_, seconds)| seconds).collect())
}

async fn timed(http_client: &mut HttpClient, path: &str) -> Outcome<f64> {
    let request = http_client.query(&APP, path)?;
    let started = Instant::now();
    http_client.send(&request).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds of each `PING`, sent one after the other on one connection until `work` completes.
async fn ping_times(redis: &Redis, work: impl Future<Output = Outcome<()>>) -> Outcome<Vec<f64>> {
    let mut connection = redis.connect().await?;
    let mut times = Vec::new();
    let pings = async {
        loop {
            let started = Instant::now();
            if let Err(error) = connection.request("PING\r\n", 1).await {
                return Outcome::<()>::Err(error);
            }
            times.push(started.elapsed().as_secs_f64());
        }
    };
    tokio::select! {
        done = work => done?,
        failed = pings => failed?,
    }
    Ok(times)
}
