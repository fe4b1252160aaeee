//! Coming, going and being listed: what a cluster on Redis does besides
//! delivering. Each rate stands beside one of bare Redis in the same minute.

use std::future::Future;
use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::caller::{APP, Caller};
use crate::journal::Journal;
use crate::record::{Faults, Record};
use crate::redis::Redis;
use crate::run::{Figures, percentile};
use crate::servers::{Fleet, Node};
use crate::visitor::Visitor;
use crate::{Bench, Outcome};

/// Sockets, each of which joins so many channels.
const JOINERS: usize = 100;
const CHANNELS_PER_JOINER: usize = 200;
/// Each join is told to all who are there already: few of them, since it is the
/// join that is measured.
const MEMBERS_PER_CHANNEL: usize = 10;
/// What one connection to Redis is asked at once by the bare rate, over as many
/// connections as a node has.
const BARE_WINDOW: usize = 64;
const BARE_CONNECTIONS: usize = 4;
const BARE_WINDOWS: usize = 300;
/// One drop, and who comes meanwhile.
const NEWCOMERS: usize = 500;
/// Channels that each of the crowd has for itself.
const SEATS: usize = 3;
const CONNECTS_MAX: usize = 64;
/// What is listed: as many channels as a socket may have, for each of these.
const LISTED_SOCKETS: usize = 10;
const CHANNELS_PER_SOCKET: usize = 10_000;
const LISTINGS: usize = 10;

/// Everything that is asked for, on two nodes.
pub async fn members(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    const CASES: [&str; 4] = ["subscribe", "join", "drop", "list"];
    for repeat in 0..bench.options.repeats {
        for case in CASES.into_iter().filter(|case| case.contains(&bench.options.only)) {
            let fleet = Fleet::start(&bench.fanfare(2), bench.cores()).await?;
            let (nodes, redis) = (&fleet.nodes, fleet.redis.as_ref().ok_or("there is no Redis")?);
            let figures = match case {
                "subscribe" => subscribe(nodes, redis).await?,
                "join" => join(nodes, redis).await?,
                "drop" => rush(nodes, bench.options.dropped as usize).await?,
                _ => list(nodes, redis).await?,
            };
            journal.add(Record {
                table: case.into(),
                case: case.into(),
                server: fleet.contender.name.clone(),
                repeat,
                at: None,
                figures,
                faults: Faults::default(),
            })?;
        }
    }
    Ok(())
}

/// Subscriptions per second: each socket has channels of its own.
async fn subscribe(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let bare = bare_rate(redis).await?;
    let rate = rate(nodes, |mut visitor, joiner| async move {
        let channels: Vec<String> = (0..CHANNELS_PER_JOINER).map(|n| format!("own-{joiner}-{n}")).collect();
        visitor.subscribe(&channels).await.map(|()| visitor)
    })
    .await?;
    Ok(named([("subscriptions_per_second", rate), ("bare_sadd_per_second", bare)]))
}

/// Joins per second: each is a user whom the channel has not seen.
async fn join(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let bare = bare_rate(redis).await?;
    let rate = rate(nodes, |mut visitor, joiner| async move {
        let group = joiner / MEMBERS_PER_CHANNEL;
        let channels: Vec<String> =
            (0..CHANNELS_PER_JOINER).map(|n| format!("presence-{group}-{n}")).collect();
        visitor.join(&channels, &format!("user-{joiner}")).await.map(|()| visitor)
    })
    .await?;
    Ok(named([("joins_per_second", rate), ("bare_sadd_per_second", bare)]))
}

/// 500 sockets connect and subscribe to a channel each, with nothing else going
/// on, and while the first node tidies up after a crowd that was cut off.
async fn rush(nodes: &[Node], crowd: usize) -> Outcome<Figures> {
    let quiet = newcomers(&nodes[0], "quiet").await?;
    let seats_max = crowd * SEATS;
    let seats = stream::iter(0..crowd).map(|n| async move {
        let mut visitor = Visitor::connect(nodes[0].address).await?;
        let seats: Vec<String> = (0..SEATS).map(|seat| format!("seat-{n}-{seat}")).collect();
        visitor.subscribe(&seats).await?;
        Outcome::Ok(visitor)
    });
    let crowd: Vec<Visitor> = seats.buffer_unordered(CONNECTS_MAX).try_collect().await?;
    let mut caller = Caller::connect(nodes[1].address).await?;
    crowd.into_iter().try_for_each(Visitor::reset)?;
    let rushed = newcomers(&nodes[0], "rushed").await?;
    timed(&mut caller, "/channels").await?;
    let left = caller.count("\"seat-");
    Ok(named([
        ("newcomer_ms_median", ms(&rushed, 0.5)?),
        ("newcomer_ms_p99", ms(&rushed, 0.99)?),
        ("quiet_ms_median", ms(&quiet, 0.5)?),
        ("quiet_ms_p99", ms(&quiet, 0.99)?),
        ("channels_dropped", seats_max as f64),
        ("channels_left_when_all_were_in", left as f64),
    ]))
}

/// 100,000 occupied channels: how long the list takes, and what it does to others
/// who ask Redis something.
async fn list(nodes: &[Node], redis: &Redis) -> Outcome<Figures> {
    let fill = (0..LISTED_SOCKETS).zip(nodes.iter().cycle()).map(|(socket, node)| async move {
        let mut visitor = Visitor::connect(node.address).await?;
        let channels: Vec<String> =
            (0..CHANNELS_PER_SOCKET).map(|n| format!("listed-{socket}-{n:05}")).collect();
        visitor.subscribe(&channels).await.map(|()| visitor)
    });
    let visitors: Vec<Visitor> = stream::iter(fill).buffer_unordered(LISTED_SOCKETS).try_collect().await?;
    let mut caller = Caller::connect(nodes[0].address).await?;
    let mut times = Vec::new();
    let lists = async {
        for _ in 0..LISTINGS {
            times.push(timed(&mut caller, "/channels").await?);
        }
        Outcome::Ok(())
    };
    let started = Instant::now();
    let waited = waits_during(redis, lists).await?;
    let as_long = started.elapsed();
    let rest = async {
        sleep(as_long).await;
        Outcome::Ok(())
    };
    let quiet = waits_during(redis, rest).await?;
    let mut ones = Vec::new();
    for _ in 0..LISTINGS {
        ones.push(timed(&mut caller, "/channels/listed-0-00000").await?);
    }
    drop(visitors);
    Ok(named([
        ("list_ms_median", ms(&times, 0.5)?),
        ("one_channel_ms_median", ms(&ones, 0.5)?),
        ("redis_ping_ms_p99", ms(&waited, 0.99)?),
        ("redis_ping_ms_longest", ms(&waited, 1.0)?),
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

/// Joins per second of all sockets together, which have connected before.
async fn rate<F>(nodes: &[Node], joins: impl Fn(Visitor, usize) -> F) -> Outcome<f64>
where
    F: Future<Output = Outcome<Visitor>> + Send + 'static,
{
    let mut visitors = Vec::new();
    for (_, node) in (0..JOINERS).zip(nodes.iter().cycle()) {
        visitors.push(Visitor::connect(node.address).await?);
    }
    let started = Instant::now();
    let mut work: JoinSet<_> = visitors.into_iter().zip(0..).map(|(it, joiner)| joins(it, joiner)).collect();
    // Whoever is in goes on reading what the others' joins send him.
    let mut staying = JoinSet::new();
    while let Some(visitor) = work.join_next().await {
        staying.spawn(visitor??.stay());
    }
    Ok((JOINERS * CHANNELS_PER_JOINER) as f64 / started.elapsed().as_secs_f64())
}

/// Commands per second that Redis takes over as many connections as a node has.
async fn bare_rate(redis: &Redis) -> Outcome<f64> {
    let mut links = Vec::new();
    for _ in 0..BARE_CONNECTIONS {
        links.push(redis.link().await?);
    }
    let started = Instant::now();
    let mut work: JoinSet<Outcome<()>> = JoinSet::new();
    for (connection, mut link) in links.into_iter().enumerate() {
        work.spawn(async move {
            for window in 0..BARE_WINDOWS {
                let command = |n| format!("SADD bare:{connection}:{window} {n}\r\n");
                let commands: String = (0..BARE_WINDOW).map(command).collect();
                link.ask(&commands, BARE_WINDOW).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok((BARE_CONNECTIONS * BARE_WINDOWS * BARE_WINDOW) as f64 / started.elapsed().as_secs_f64())
}

/// Seconds that each took from its connect to its confirmation.
async fn newcomers(node: &Node, name: &str) -> Outcome<Vec<f64>> {
    let one = |n| async move {
        let started = Instant::now();
        let mut visitor = Visitor::connect(node.address).await?;
        visitor.subscribe(&[format!("{name}-{n}")]).await?;
        Outcome::Ok((visitor, started.elapsed().as_secs_f64()))
    };
    let came = stream::iter(0..NEWCOMERS).map(one).buffer_unordered(CONNECTS_MAX);
    let came: Vec<(Visitor, f64)> = came.try_collect().await?;
    Ok(came.into_iter().map(|(_, seconds)| seconds).collect())
}

async fn timed(caller: &mut Caller, path: &str) -> Outcome<f64> {
    let request = caller.query(&APP, path)?;
    let started = Instant::now();
    caller.send(&request).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds that each of one asker's PINGs took until `work` was done.
async fn waits_during(redis: &Redis, work: impl Future<Output = Outcome<()>>) -> Outcome<Vec<f64>> {
    let mut link = redis.link().await?;
    let mut waits = Vec::new();
    let pings = async {
        loop {
            let asked = Instant::now();
            if let Err(error) = link.ask("PING\r\n", 1).await {
                return Outcome::<()>::Err(error);
            }
            waits.push(asked.elapsed().as_secs_f64());
        }
    };
    tokio::select! {
        done = work => done?,
        failed = pings => failed?,
    }
    Ok(waits)
}
