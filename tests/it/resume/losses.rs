//! Resuming after a loss: of a channel's history, of the data of Redis, or of a node with
//! many connections.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::delta_client::Encoding;
use crate::support::{
    AppSpec, Backend, Caller, Cluster, Direction, FrameKind, Links, Redis, ResumingClient, STEP_TIMEOUT,
    bounded, eventually,
};

const CONFIG: &str = "[delta_compression]\nfull_message_interval = 0\n[tag_filtering]\nenabled = true\n";
const CLIENTS: usize = 500;
/// Delay of each reply of Redis while many clients resume. Small enough that the regular
/// commands of the node still succeed.
const REPLY_DELAY: Duration = Duration::from_millis(50);

async fn cluster() -> Cluster {
    let app = AppSpec::new("1").set("max_event_batch_size", 100);
    Cluster::builder(Backend::Redis).config(CONFIG).app(app).start().await
}

fn text(number: usize) -> String {
    json!({ "number": number, "same": "all the same ".repeat(30) }).to_string()
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(text).collect()
}

async fn publish_batch(caller: &Caller, numbers: std::ops::Range<usize>) {
    let event = |number| json!({ "name": "e", "channel": "news", "data": text(number) });
    caller.post_batch(numbers.map(event).collect()).await.expect_ok();
}

#[tokio::test]
async fn cluster_resume_after_loss_of_the_history_is_declined() {
    bounded(async {
        let cluster = cluster().await;
        let caller = cluster.caller("1");
        let members = json!({ "delta": true });
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, 0..3).await;
        client.events(&texts(0..3)).await;
        let state = client.disconnect();
        publish_batch(&caller, 3..5).await;
        let script = "return redis.call('DEL', redis.call('KEYS', 'fanfare:*:log:1:news')[1])";
        assert_eq!(cluster.redis().command(&["EVAL", script, "0"]).await.integer(), 1);
        let resume = state.resume();
        let (mut declined, resumed) =
            ResumingClient::reconnect(cluster.second(), "news", members.clone(), state.clone(), resume).await;
        assert!(!resumed, "two events are lost");
        assert_eq!(declined.state.epoch, state.epoch);
        publish_batch(&caller, 5..7).await;
        assert_eq!(declined.events(&texts(5..7)).await, [Encoding::Full, Encoding::Delta]);

        // A client without missed events can be resumed without a history.
        let state = declined.disconnect();
        cluster.redis().command(&["EVAL", script, "0"]).await;
        let resume = state.resume();
        let (mut back, resumed) =
            ResumingClient::reconnect(cluster.first(), "news", members, state, resume).await;
        assert!(resumed);
        publish_batch(&caller, 7..8).await;
        back.events(&texts(7..8)).await;
    })
    .await;
}

#[tokio::test]
async fn cluster_resume_after_redis_data_loss_is_declined() {
    bounded(async {
        let cluster = cluster().await;
        let caller = cluster.caller("1");
        let members = json!({ "delta": true });
        let mut stays = ResumingClient::on(cluster.second(), "news", members.clone()).await;
        let mut leaves = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, 0..3).await;
        for client in [&mut stays, &mut leaves] {
            client.events(&texts(0..3)).await;
        }
        let (before, state) = (stays.state.epoch, leaves.disconnect());
        cluster.redis().command(&["FLUSHALL"]).await;
        publish_batch(&caller, 3..5).await;
        // A position notice precedes the first sequence number of the new epoch.
        assert!(stays.position().await, "the position notice has no `missed`");
        assert_ne!(stays.state.epoch, before);
        assert_eq!(stays.events(&texts(3..5)).await, [Encoding::Full, Encoding::Delta]);

        let resume = state.resume();
        let (mut declined, resumed) =
            ResumingClient::reconnect(cluster.first(), "news", members.clone(), state, resume).await;
        assert!(!resumed);
        assert_eq!(declined.state.epoch, stays.state.epoch);
        publish_batch(&caller, 5..6).await;
        assert_eq!(declined.events(&texts(5..6)).await, [Encoding::Full]);
        stays.events(&texts(5..6)).await;

        // Resuming works in the new epoch.
        let state = stays.disconnect();
        publish_batch(&caller, 6..9).await;
        let resume = state.resume();
        let (mut back, resumed) =
            ResumingClient::reconnect(cluster.first(), "news", members, state, resume).await;
        assert!(resumed);
        assert_eq!(back.events(&texts(6..9)).await, [Encoding::Delta; 3]);
    })
    .await;
}

/// Waits for three renewals of each lease: the nodes have received the answer to the first.
async fn leases_are_renewed(cluster: &Cluster) {
    let counters = async || {
        let leases = cluster.redis().command(&["HVALS", "fanfare:{nodes}:leases"]).await.text();
        leases.split(' ').filter_map(|counter| counter.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    let before = counters().await;
    eventually("renewed leases", STEP_TIMEOUT, async || {
        let now = counters().await;
        let renewed = now.iter().filter(|now| before.iter().all(|before| **now > before + 2)).count();
        match renewed >= cluster.nodes.len() {
            true => Ok(()),
            false => Err(format!("{before:?}, then {now:?}")),
        }
    })
    .await;
}

/// Redis is restarted from a file that lacks the last events, and no node has delivered these events
/// that could notice: the client alone knows them. New events have their sequence numbers.
#[tokio::test]
async fn cluster_resume_after_restart_from_an_older_file_is_declined() {
    bounded(async {
        let mut cluster = cluster().await;
        let caller = cluster.second().caller("1");
        let members = json!({ "delta": true });
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, 0..3).await;
        client.events(&texts(0..3)).await;
        cluster.redis().command(&["SAVE"]).await;
        publish_batch(&caller, 3..6).await;
        client.events(&texts(3..6)).await;
        let mut state = client.disconnect();
        cluster.nodes.remove(0).kill9();
        cluster.redis_mut().restart().await;
        leases_are_renewed(&cluster).await;
        publish_batch(&caller, 6..10).await;

        // Also from a position that is in the file.
        let newest = state.seq;
        for seq in [newest, newest - 4] {
            state.seq = seq;
            let resume = state.resume();
            let reconnect =
                ResumingClient::reconnect(cluster.first(), "news", members.clone(), state.clone(), resume);
            let (mut declined, resumed) = reconnect.await;
            assert!(!resumed, "{} events after the position of the client", newest - seq);
            publish_batch(&caller, 10..11).await;
            declined.events(&texts(10..11)).await;
        }
    })
    .await;
}

/// Redis is restarted and has lost nothing: subscribers continue in the new epoch, and do not restart.
#[tokio::test]
async fn cluster_subscribers_continue_after_a_restart_without_loss() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).durable().config(CONFIG).start().await;
        let caller = cluster.caller("1");
        let members = json!({ "delta": true });
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, 0..3).await;
        client.events(&texts(0..3)).await;
        let (epoch, seq) = (client.state.epoch, client.state.seq);
        cluster.redis_mut().restart().await;
        leases_are_renewed(&cluster).await;
        publish_batch(&caller, 3..5).await;
        // `event` fails on a position with `missed`.
        let encoding = client.events(&texts(3..5)).await;
        assert_ne!(client.state.epoch, epoch);
        assert_eq!(encoding, [Encoding::Delta, Encoding::Delta]);
        let state = client.disconnect();
        publish_batch(&caller, 5..7).await;
        let resume = state.resume();
        let (mut back, resumed) =
            ResumingClient::reconnect(cluster.second(), "news", members.clone(), state, resume).await;
        assert!(resumed);
        back.events(&texts(5..7)).await;

        // A position of the earlier epoch under the name of this one, although the history has both.
        let mut state = back.disconnect();
        state.seq = seq;
        let resume = state.resume();
        let reconnect = ResumingClient::reconnect(cluster.second(), "news", members, state, resume);
        assert!(!reconnect.await.1, "no such position");
    })
    .await;
}

/// The history cannot be read for a while, and more events are published: the missed
/// events still come first, and each event once.
#[tokio::test]
async fn cluster_resume_waits_while_the_history_is_unreadable() {
    bounded(async {
        let cluster = Cluster::builder(Backend::Redis).proxied(0).config(CONFIG).start().await;
        let (proxied, other, proxy) = (cluster.first(), cluster.second(), cluster.proxy());
        let caller = other.caller("1");
        let members = json!({ "delta": true });
        for trouble in ["stalled", "cut"] {
            let mut client = ResumingClient::on(proxied, "news", members.clone()).await;
            let mut stays = ResumingClient::on(other, "news", members.clone()).await;
            publish_batch(&caller, 0..1).await;
            client.events(&texts(0..1)).await;
            let state = client.state.clone();
            publish_batch(&caller, 1..3).await;
            client.events(&texts(1..3)).await;
            match trouble {
                "stalled" => proxy.stall(Links::Scripts, Direction::Both),
                _ => proxy.cut(Links::Scripts),
            }
            let mut data = members.clone();
            data["resume"] = state.resume();
            client.browser.request_subscription_with("news", data).await;
            client.browser.settle().await;
            publish_batch(&caller, 3..6).await;
            stays.events(&texts(0..6)).await;
            proxy.heal();
            client.state = state;
            let succeeded = client.browser.confirmed("news").await;
            assert!(client.state.on_confirmation(&succeeded), "{trouble}");
            client.events(&texts(1..6)).await;
            publish_batch(&caller, 6..7).await;
            assert_eq!(client.events(&texts(6..7)).await, [Encoding::Delta], "{trouble}");
        }
    })
    .await;
}

/// 500 clients of a killed node resume on another node at once. A single read of the
/// history serves many of them.
#[tokio::test]
async fn cluster_resume_of_500_clients_of_a_killed_node_shares_history_reads() {
    bounded(async {
        let app = AppSpec::new("1").set("max_event_batch_size", 100);
        let cluster = Cluster::builder(Backend::Redis).proxied(1).config(CONFIG).app(app);
        let mut cluster = cluster.start().await;
        let caller = cluster.nodes[1].caller("1");
        // Some with deltas, some with a filter, some with neither.
        let members = |number: usize| match number % 3 {
            0 => json!({ "delta": true }),
            1 => json!({ "delta": true, "filter": { "key": "x", "cmp": "nex" } }),
            _ => json!({}),
        };
        let clients =
            (0..CLIENTS).map(|number| ResumingClient::on(&cluster.nodes[0], "news", members(number)));
        let mut clients = join_all(clients).await;
        publish_batch(&caller, 0..5).await;
        join_all(clients.iter_mut().map(|client| async { client.events(&texts(0..5)).await })).await;
        cluster.nodes[0].kill9();
        let states: Vec<_> = clients.into_iter().map(ResumingClient::disconnect).collect();
        publish_batch(&caller, 5..25).await;
        let back = states.into_iter().map(|state| ResumingClient::connect(&cluster.nodes[1], "news", state));
        let mut back = join_all(back).await;
        let reads = history_reads(cluster.redis()).await;
        // One read takes longer than sending all requests does.
        cluster.proxy().delay(Links::Scripts, Direction::Replies, REPLY_DELAY);
        for (number, client) in back.iter_mut().enumerate() {
            let resume = client.state.resume();
            client.request(members(number), resume).await;
        }
        join_all(back.iter_mut().map(|client| client.browser.settle())).await;
        cluster.proxy().heal();
        let resumed = join_all(back.iter_mut().map(ResumingClient::confirmation)).await;
        let read = history_reads(cluster.redis()).await - reads;
        println!("the history was read {read} times");
        assert!(read * 10 <= i64::try_from(CLIENTS).unwrap(), "{read} reads");
        publish_batch(&caller, 25..30).await;
        for (number, (client, resumed)) in back.iter_mut().zip(resumed).enumerate() {
            assert!(resumed, "{number}");
            let encoding = client.events(&texts(5..30)).await;
            let expected = if number % 3 == 2 { Encoding::Plain } else { Encoding::Delta };
            assert!(encoding.iter().all(|encoding| *encoding == expected), "{number}: {encoding:?}");
        }
        let metrics = cluster.nodes[1].metrics().await;
        assert_eq!(metrics.sum("fanfare_resumes_total") as usize, CLIENTS);
        assert_eq!(metrics.sum("fanfare_resumes_failed_total"), 0.0);
        let encoded = metrics.sum("fanfare_deltas_encoded_total");
        println!("{encoded} deltas encoded");
        // Clients that missed the same events share the deltas: for each read, once per
        // delivery options.
        let encoded_max = ((read + 2) * 2 * 30) as f64;
        assert!(encoded <= encoded_max, "{encoded} deltas encoded, {encoded_max} are enough");
    })
    .await;
}

/// How many commands have read entries from a history.
async fn history_reads(redis: &Redis) -> i64 {
    let info = redis.command(&["INFO", "commandstats"]).await.text();
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_lrange:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// The missed events exceed half of the write buffer.
#[tokio::test]
async fn cluster_resume_of_too_many_missed_bytes_is_declined() {
    bounded(async {
        let cluster = cluster().await;
        let caller = cluster.caller("1");
        let client = ResumingClient::on(cluster.first(), "news", json!({})).await;
        publish_batch(&caller, 0..1).await;
        let mut client = client;
        client.events(&texts(0..1)).await;
        let state = client.disconnect();
        for number in 0..60 {
            let data = format!("{number}{}", "x".repeat(10_000));
            caller.publish("news", "e", &data).await;
        }
        let resume = state.resume();
        let (mut declined, resumed) =
            ResumingClient::reconnect(cluster.second(), "news", json!({}), state, resume).await;
        assert!(!resumed);
        publish_batch(&caller, 1..2).await;
        declined.events(&texts(1..2)).await;
        let lost = cluster.second().metrics().await.sum("fanfare_resumes_too_large_total");
        assert_eq!(lost, 1.0);
    })
    .await;
}

/// Redis restarts empty while clients stay connected: they receive a position notice with
/// `missed` and the new epoch.
#[tokio::test]
async fn cluster_resume_subscribers_receive_missed_after_redis_restarts_empty() {
    bounded(async {
        let mut cluster = cluster().await;
        let members = json!({ "delta": true });
        let mut resumers = vec![
            ResumingClient::on(cluster.first(), "news", members.clone()).await,
            ResumingClient::on(cluster.second(), "news", members.clone()).await,
        ];
        publish_batch(&cluster.caller("1"), 0..3).await;
        for client in &mut resumers {
            client.events(&texts(0..3)).await;
        }
        cluster.redis_mut().restart().await;
        let caller = cluster.caller("1");
        let published = async || {
            let event = json!({ "name": "e", "channel": "news", "data": text(3) });
            match caller.post_events(event).await.status {
                200 => Ok(()),
                status => Err(status.to_string()),
            }
        };
        eventually("published again", STEP_TIMEOUT, published).await;
        for client in &mut resumers {
            let before = client.state.epoch;
            let (mut missed, mut seen) = (false, None);
            while seen.is_none() {
                match client.receive().await {
                    FrameKind::Event(event) => seen = Some(event),
                    FrameKind::Position { missed: now } => missed |= now,
                    other => panic!("{other:?}"),
                }
            }
            assert!(missed, "no position notice with `missed`");
            assert_ne!(client.state.epoch, before);
            assert_eq!(seen.map(|event| (event.encoding, event.data)), Some((Encoding::Full, text(3))));
        }
    })
    .await;
}

/// Clients receive the low 31 bits of a sequence number. When these wrap around, chains and
/// positions continue.
#[tokio::test]
async fn cluster_resume_continues_when_client_sequence_numbers_wrap_around() {
    bounded(async {
        let cluster = cluster().await;
        let caller = cluster.caller("1");
        let members = json!({ "delta": true });
        publish_batch(&caller, 0..3).await;
        // Sets the sequence number to shortly before the wrap-around.
        let script = "local head = redis.call('KEYS', 'fanfare:*:head:1:news')[1]
            local seq = tonumber(redis.call('HGET', head, 'seq'))
            local next = seq - seq % 2 ^ 31 + 2 ^ 31 - 3
            redis.call('HSET', head, 'seq', string.format('%.0f', next))
            return redis.status_reply(string.format('%.0f', next))";
        println!("{}", cluster.redis().command(&["EVAL", script, "0"]).await.text());
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        let mut stays = ResumingClient::on(cluster.second(), "news", members.clone()).await;
        let node = |number: usize| if number.is_multiple_of(2) { cluster.first() } else { cluster.second() };
        let mut wrapped = false;
        for round in 0..4 {
            publish_batch(&caller, 3 + round * 2..5 + round * 2).await;
            let encoding = stays.events(&texts(3 + round * 2..5 + round * 2)).await;
            let first = if round == 0 { Encoding::Full } else { Encoding::Delta };
            assert_eq!(encoding, [first, Encoding::Delta], "{round}");
            wrapped |= stays.state.seq < 100;
            if round == 0 {
                client.events(&texts(3..5)).await;
                continue;
            }
            let state = client.disconnect();
            let resume = state.resume();
            let back = ResumingClient::reconnect(node(round), "news", members.clone(), state, resume).await;
            assert!(back.1, "{round}");
            client = back.0;
            client.events(&texts(3 + round * 2..5 + round * 2)).await;
        }
        assert!(wrapped, "{}", stays.state.seq);
    })
    .await;
}

/// The delta toggle switches deltas off where events do not compress, and on again later. A
/// client that resumes across a switch receives every event.
#[tokio::test]
async fn cluster_resume_across_a_delta_toggle_receives_every_event() {
    use rand::RngExt;
    bounded(async {
        let cluster = cluster().await;
        let caller = cluster.caller("1");
        let mut rng = crate::support::Seed::new().rng();
        let mut noise = || -> Vec<String> {
            let text = |_| (0..400).map(|_| char::from(rng.random_range(b'!'..=b'~'))).collect::<String>();
            (0..50).map(text).collect()
        };
        let members = json!({ "delta": true });
        let mut stays = ResumingClient::on(cluster.second(), "news", members.clone()).await;
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, 0..1).await;
        for reader in [&mut stays, &mut client] {
            reader.events(&texts(0..1)).await;
        }
        let switches = async || cluster.second().metrics().await.sum("fanfare_delta_toggles_total");
        for (phase, is_noise) in [true, false, true].into_iter().enumerate() {
            for round in 0..60 {
                let data = if is_noise { noise() } else { texts(round * 50..round * 50 + 50) };
                let state = client.disconnect();
                let batch = data.iter().map(|data| json!({ "name": "e", "channel": "news", "data": data }));
                caller.post_batch(batch.collect()).await.expect_ok();
                let resume = state.resume();
                let node = cluster.nodes.get(round % 2).unwrap();
                let resumed;
                (client, resumed) =
                    ResumingClient::reconnect(node, "news", members.clone(), state, resume).await;
                assert!(resumed, "{phase} {round}");
                client.events(&data).await;
                stays.events(&data).await;
                if switches().await > phase as f64 && round > 2 {
                    println!("switched in round {round}");
                    break;
                }
            }
            assert_eq!(switches().await, (phase + 1) as f64);
        }
    })
    .await;
}

/// Initial bases do not outlive the epoch of their events.
#[tokio::test]
async fn cluster_initial_bases_are_dropped_with_a_lost_epoch() {
    bounded(async {
        let config = "[delta_compression]\nfull_message_interval = 0\ncache_sync = true\n";
        let cluster = Cluster::builder(Backend::Redis).config(config).start().await;
        let caller = cluster.caller("1");
        let members = json!({ "delta": true });
        let mut stays = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        assert_eq!(stays.sync().await, 0);
        caller.publish("news", "e", &text(0)).await;
        stays.events(&texts(0..1)).await;
        cluster.redis().command(&["FLUSHALL"]).await;
        let mut joins = ResumingClient::on(cluster.second(), "news", members.clone()).await;
        assert_eq!(joins.sync().await, 0);
        caller.publish("news", "e", &text(1)).await;
        for reader in [&mut stays, &mut joins] {
            let mut seen = None;
            while seen.is_none() {
                if let FrameKind::Event(event) = reader.receive().await {
                    seen = Some((event.encoding, event.data));
                }
            }
            assert_eq!(seen, Some((Encoding::Full, text(1))));
        }
        for node in &cluster.nodes {
            let mut late = ResumingClient::on(node, "news", members.clone()).await;
            assert_eq!(late.sync().await, 1);
            caller.publish("news", "e", &text(2)).await;
            assert_eq!(late.events(&texts(2..3)).await, [Encoding::Delta]);
        }
    })
    .await;
}
