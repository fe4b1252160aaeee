//! Chains by conflation key, and the conditions for each delta (protocol.md 3.2,
//! 3.3, 3.8 to 3.11), through real sockets.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::support::delta_client::Encoding;
use crate::support::{
    AppSpec, Backend, Caller, Cluster, FrameKind, ResumingClient, Seed, Server, on_both_backends,
};

on_both_backends![
    each_conflation_key_has_its_own_chain,
    event_without_usable_conflation_key_is_in_no_chain,
    least_recently_published_chain_is_evicted,
    excluded_socket_gets_full_events_in_missed_chains_only,
    all_nodes_send_the_same_full_events,
    new_subscriber_receives_initial_bases,
    new_subscriber_during_publishing_receives_initial_bases,
    late_opt_in_receives_initial_bases,
    new_subscriber_without_initial_bases_receives_empty_cache_sync,
];

const NO_INTERVAL: &str = "full_message_interval = 0";
const CHANNEL: &str = "ticks-all";

/// An app whose channels `ticks-*` have conflation keys.
fn app(members: &str) -> AppSpec {
    let pattern = format!(r#"{{ "ticks-*" = {{ conflation_key = "symbol"{members} }} }}"#);
    AppSpec::new("1").set("channel_delta_compression", pattern).set("max_event_batch_size", 100)
}

async fn cluster(backend: Backend, members: &str, config: &str) -> Cluster {
    let config = format!("[delta_compression]\n{config}\n");
    Cluster::builder(backend).config(&config).app(app(members)).start().await
}

async fn server(config: &str) -> Server {
    Server::builder().config(&format!("[delta_compression]\n{config}\n")).app(app("")).start().await
}

fn tick(symbol: &str, price: usize) -> String {
    json!({ "note": "all the same ".repeat(30), "price": price, "symbol": symbol }).to_string()
}

fn event(channel: &str, data: &str) -> Value {
    json!({ "name": "tick", "channel": channel, "data": data })
}

async fn publish(caller: &Caller, channel: &str, data: &str) {
    caller.post_events(event(channel, data)).await.expect_ok();
}

fn on() -> Value {
    json!({ "delta": true })
}

async fn each_conflation_key_has_its_own_chain(backend: Backend) {
    for (markers, seq_marker, key_marker) in
        [("underscore", "__delta_seq", "__conflation_key"), ("plain", "sequence", "conflation_key")]
    {
        let config = format!("{NO_INTERVAL}\nmarkers = \"{markers}\"");
        let cluster = cluster(backend, "", &config).await;
        let caller = cluster.caller("1");
        let mut readers = Vec::new();
        for algorithm in ["fossil", "xdelta3"] {
            for node in [cluster.first(), cluster.second()] {
                let members = json!({ "delta": algorithm });
                readers.push((
                    algorithm,
                    ResumingClient::without_positions(node, CHANNEL, members.clone()).await,
                ));
                readers.push((algorithm, ResumingClient::on(node, CHANNEL, members).await));
            }
        }
        let mut rng = Seed::new().rng();
        let symbols = ["BTC", "ETH", "žluťoučký kůň 🐎", "7", "true"];
        let mut seen = BTreeSet::new();
        for round in 0..12 {
            let picked: Vec<&str> = (0..=round % 4 * 5).map(|_| *symbols.choose(&mut rng).unwrap()).collect();
            let ticks: Vec<String> =
                picked.iter().enumerate().map(|(at, symbol)| tick(symbol, round * 100 + at)).collect();
            let batch = ticks.iter().map(|data| event(CHANNEL, data)).collect();
            caller.post_batch(batch).await.expect_ok();
            let is_new: Vec<bool> = picked.iter().map(|symbol| seen.insert(*symbol)).collect();
            for (algorithm, reader) in &mut readers {
                for ((data, symbol), is_new) in ticks.iter().zip(&picked).zip(&is_new) {
                    let event = reader.event().await;
                    assert_eq!((&event.data, event.key.as_deref()), (data, Some(*symbol)));
                    assert_eq!(
                        event.encoding,
                        if *is_new { Encoding::Full } else { Encoding::Delta },
                        "{symbol}"
                    );
                    let name = event.algorithm.as_deref();
                    assert_eq!(name, (event.encoding == Encoding::Delta).then_some(*algorithm));
                }
            }
        }
        // The exact text of a full frame.
        let mut browser = cluster.second().browser("key1").await;
        browser.subscribe_with(CHANNEL, on()).await;
        publish(&caller, CHANNEL, r#"{"symbol":"new"}"#).await;
        let frame = browser.find_event("tick").await;
        let envelope: Value = serde_json::from_str(&frame.text).unwrap();
        let seq = &envelope[seq_marker];
        let expected = format!(
            r#"{{"event":"tick","channel":"{CHANNEL}","data":{{"symbol":"new"}},"{seq_marker}":{seq},"{key_marker}":"new"}}"#
        );
        assert_eq!(frame.text, expected);
    }
}

async fn event_without_usable_conflation_key_is_in_no_chain(backend: Backend) {
    let cluster = cluster(backend, "", NO_INTERVAL).await;
    let caller = cluster.caller("1");
    let mut plain = cluster.second().browser("key1").await;
    plain.subscribe(CHANNEL).await;
    let mut readers = [
        ResumingClient::without_positions(cluster.second(), CHANNEL, on()).await,
        ResumingClient::on(cluster.first(), CHANNEL, on()).await,
    ];
    let pad = "p".repeat(300);
    for (data, encoding) in [
        (tick("BTC", 1), Encoding::Full),
        (json!({ "pad": pad }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": null }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "a\"b" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "a\\b" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "a\nb" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "\u{7f}" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "k".repeat(257) }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": "__delta_seq" }).to_string(), Encoding::Plain),
        (json!({ "pad": pad, "symbol": { "a": "b" } }).to_string(), Encoding::Plain),
        (format!("no JSON: {pad}"), Encoding::Plain),
        (format!("[\"symbol\",\"{pad}\"]"), Encoding::Plain),
        (tick("BTC", 2), Encoding::Delta),
        (json!({ "pad": pad, "symbol": "k".repeat(256) }).to_string(), Encoding::Full),
        (json!({ "pad": pad, "symbol": 7 }).to_string(), Encoding::Full),
        (json!({ "pad": pad, "symbol": "7" }).to_string(), Encoding::Delta),
        (json!({ "pad": pad, "symbol": false }).to_string(), Encoding::Full),
        (tick("BTC", 3), Encoding::Delta),
    ] {
        publish(&caller, CHANNEL, &data).await;
        for reader in &mut readers {
            let event = reader.event().await;
            assert_eq!((&event.data, event.encoding), (&data, encoding));
        }
        let frame = plain.expect_event(CHANNEL, "tick").await;
        let data = Value::from(data);
        assert_eq!(frame.text, format!(r#"{{"event":"tick","channel":"{CHANNEL}","data":{data}}}"#));
    }
}

async fn least_recently_published_chain_is_evicted(backend: Backend) {
    let cluster = cluster(backend, ", max_conflation_keys = 3", NO_INTERVAL).await;
    let caller = cluster.caller("1");
    let mut rng = Seed::new().rng();
    let mut readers = [
        ResumingClient::on(cluster.first(), CHANNEL, on()).await,
        ResumingClient::without_positions(cluster.second(), CHANNEL, json!({ "delta": "xdelta3" })).await,
    ];
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    let mut evicted = 0;
    for number in 0..120 {
        let symbol = rng.random_range(0..5).to_string();
        let data = tick(&symbol, number);
        publish(&caller, CHANNEL, &data).await;
        let encoding = if newest.contains_key(&symbol) { Encoding::Delta } else { Encoding::Full };
        newest.insert(symbol, number);
        if newest.len() > 3 {
            let oldest = newest.iter().min_by_key(|(_, number)| **number).map(|(key, _)| key.clone());
            newest.remove(&oldest.unwrap());
            evicted += 1;
        }
        for reader in &mut readers {
            let event = reader.event().await;
            assert_eq!((event.data, event.encoding), (data.clone(), encoding), "{number}");
        }
    }
    let counted = cluster.second().metrics().await.sum("fanfare_chains_evicted_total");
    assert!(counted >= f64::from(evicted), "{counted} counted, {evicted} evicted");
}

/// Up to a limit: with more missing bases, each of the subscriber's chains restarts
/// with a full event. No other subscriber is affected.
async fn excluded_socket_gets_full_events_in_missed_chains_only(backend: Backend) {
    let cluster = cluster(backend, "", NO_INTERVAL).await;
    let caller = cluster.caller("1");
    let mut sender = ResumingClient::without_positions(cluster.second(), CHANNEL, on()).await;
    let mut other = ResumingClient::without_positions(cluster.second(), CHANNEL, on()).await;
    let socket = sender.browser.socket_id().to_owned();
    let keys: Vec<String> = (0..12).map(|key| format!("key-{key}")).collect();
    let all = |price: usize| -> Vec<String> { keys.iter().map(|key| tick(key, price)).collect() };
    let batch = |ticks: &[String]| -> Value { ticks.iter().map(|data| event(CHANNEL, data)).collect() };
    caller.post_batch(batch(&all(0))).await.expect_ok();
    for reader in [&mut sender, &mut other] {
        assert_eq!(reader.events(&all(0)).await, [Encoding::Full; 12]);
    }
    for count in 1..=10 {
        let price = count * 10;
        let own = &all(price)[..count];
        let mut events = batch(own);
        for event in events.as_array_mut().unwrap() {
            event["socket_id"] = socket.as_str().into();
        }
        // In one batch, and as single events.
        match count % 2 {
            0 => {
                caller.post_batch(events).await.expect_ok();
            }
            _ => {
                for event in events.as_array().unwrap() {
                    caller.post_events(event.clone()).await.expect_ok();
                }
            }
        }
        assert_eq!(other.events(own).await, vec![Encoding::Delta; count]);
        for again in 1..=2 {
            let ticks = all(price + again);
            caller.post_batch(batch(&ticks)).await.expect_ok();
            assert_eq!(other.events(&ticks).await, [Encoding::Delta; 12]);
            let encoding = sender.events(&ticks).await;
            let expected: Vec<Encoding> = (0..12)
                .map(|key| match again == 1 && (key < count || count > 8) {
                    true => Encoding::Full,
                    false => Encoding::Delta,
                })
                .collect();
            assert_eq!(encoding, expected, "{count} {again}");
        }
    }
}

async fn all_nodes_send_the_same_full_events(backend: Backend) {
    let cluster = cluster(backend, "", "full_message_interval = 4").await;
    let callers = [cluster.first().caller("1"), cluster.second().caller("1")];
    for channel in [CHANNEL, "plain"] {
        let mut readers = [
            ResumingClient::without_positions(cluster.first(), channel, on()).await,
            ResumingClient::without_positions(cluster.second(), channel, json!({ "delta": "xdelta3" })).await,
            ResumingClient::on(cluster.second(), channel, on()).await,
        ];
        let mut encoding: [Vec<Encoding>; 3] = Default::default();
        for number in 0..100 {
            let data = tick(["a", "b", "c", "d", "e"][number % 5], number);
            publish(&callers[number % 2], channel, &data).await;
            for (reader, encoding) in readers.iter_mut().zip(&mut encoding) {
                let event = reader.event().await;
                assert_eq!(event.data, data);
                encoding.push(event.encoding);
            }
        }
        assert_eq!(encoding[0], encoding[1]);
        assert_eq!(encoding[0], encoding[2]);
        let full = encoding[0].iter().filter(|encoding| **encoding == Encoding::Full).count();
        println!("{channel}: {full} of 100 in full");
        assert!((10..=40).contains(&full), "{full}");
    }
}

/// The first live event of a new subscriber is a delta, on a node with other
/// subscribers of the channel and on one without.
async fn new_subscriber_receives_initial_bases(backend: Backend) {
    for markers in ["underscore", "plain"] {
        let config = format!("{NO_INTERVAL}\nmarkers = \"{markers}\"\ncache_sync = true");
        let config = format!("{config}\n[tag_filtering]\nenabled = true");
        let cluster = cluster(backend, "", &config).await;
        let caller = cluster.caller("1");
        let mut present = ResumingClient::without_positions(cluster.first(), CHANNEL, on()).await;
        assert_eq!(present.sync().await, 0);
        for number in 0..6 {
            publish(&caller, CHANNEL, &tick(["a", "b", "c"][number % 3], number)).await;
            present.event().await;
        }
        let mut new_subscribers = Vec::new();
        for node in [cluster.first(), cluster.second()] {
            for delta in ["fossil", "xdelta3"] {
                let members = json!({ "delta": delta });
                new_subscribers.push(ResumingClient::without_positions(node, CHANNEL, members.clone()).await);
                new_subscribers.push(ResumingClient::on(node, CHANNEL, members).await);
            }
        }
        for reader in &mut new_subscribers {
            assert_eq!(reader.sync().await, 3);
        }
        // There are no bases for events that the filter excludes.
        let filter = json!({ "key": "x", "cmp": "ex" });
        let mut filtered = ResumingClient::without_positions(
            cluster.second(),
            CHANNEL,
            json!({ "delta": true, "filter": filter }),
        )
        .await;
        assert_eq!(filtered.sync().await, 0);
        new_subscribers.push(present);
        for number in 6..12 {
            let data = tick(["a", "b", "c"][number % 3], number);
            publish(&caller, CHANNEL, &data).await;
            for reader in &mut new_subscribers {
                assert_eq!(reader.events(std::slice::from_ref(&data)).await, [Encoding::Delta]);
            }
        }
        check_initial_base_without_key(&cluster).await;
    }
}

/// Without conflation keys, only a client that resumes can use an initial base.
async fn check_initial_base_without_key(cluster: &Cluster) {
    let caller = cluster.caller("1");
    for number in 0..2 {
        publish(&caller, "plain", &tick("x", number)).await;
    }
    let mut client = ResumingClient::on(cluster.second(), "plain", on()).await;
    let mut old = ResumingClient::without_positions(cluster.second(), "plain", on()).await;
    assert_eq!(client.sync().await, 1);
    publish(&caller, "plain", &tick("x", 2)).await;
    assert_eq!(client.events(&[tick("x", 2)]).await, [Encoding::Delta]);
    assert_eq!(old.events(&[tick("x", 2)]).await, [Encoding::Full]);
    // A client that resumes with bases needs no initial ones.
    let synced = async || cluster.first().metrics().await.sum("fanfare_cache_syncs_total");
    let before = synced().await;
    let state = client.disconnect();
    publish(&caller, "plain", &tick("x", 3)).await;
    let resume = state.resume();
    let (mut back, resumed) = ResumingClient::reconnect(cluster.first(), "plain", on(), state, resume).await;
    assert!(resumed);
    assert_eq!(back.events(&[tick("x", 3)]).await, [Encoding::Delta]);
    assert_eq!(synced().await, before);
}

/// The same under continuous publishing, to channels that the node has not
/// subscribed to before.
async fn new_subscriber_during_publishing_receives_initial_bases(backend: Backend) {
    let cluster = cluster(backend, "", &format!("{NO_INTERVAL}\ncache_sync = true")).await;
    let channels: Vec<String> = (0..10).map(|number| format!("ticks-{number}")).collect();
    let batch = |number: usize| -> Value {
        channels.iter().map(|channel| event(channel, &tick(["a", "b"][number % 2], number))).collect()
    };
    let caller = cluster.caller("1");
    for number in 0..2 {
        caller.post_batch(batch(number)).await.expect_ok();
    }
    let publishing = async {
        for number in 2..200 {
            caller.post_batch(batch(number)).await.expect_ok();
        }
    };
    // Both formats on both nodes: a late base causes a full event.
    let full_after: [Cell<usize>; 4] = Default::default();
    let subscribe = async |channel: &String, at: usize| {
        let node = if at.is_multiple_of(2) { cluster.second() } else { cluster.first() };
        let members = json!({ "delta": if at % 4 < 2 { "fossil" } else { "xdelta3" } });
        let mut reader = ResumingClient::without_positions(node, channel, members).await;
        let (mut price, mut missing_bases) = (None, None);
        loop {
            let event = match reader.receive().await {
                FrameKind::Event(event) => event,
                FrameKind::Bases(bases) => {
                    missing_bases = Some(2 - bases);
                    continue;
                }
                FrameKind::Other(frame) if frame.event == "pusher:delta_compression_enabled" => continue,
                other => panic!("{channel}: {other:?}"),
            };
            // A full event that arrived during the admission is from before the
            // bases. A base that this node has not delivered yet is replaced by a
            // full event.
            if let Some(missing_bases) = missing_bases.as_mut().filter(|_| event.encoding != Encoding::Delta)
            {
                assert!(*missing_bases > 0, "{channel}: {}", event.data);
                *missing_bases -= 1;
                full_after[at].set(full_after[at].get() + 1);
            }
            let data: Value = serde_json::from_str(&event.data).unwrap();
            let now = data["price"].as_u64().unwrap();
            assert!(price.is_none_or(|price| now == price + 1), "{channel}: {now} after {price:?}");
            price = Some(now);
            if now == 199 {
                assert!(missing_bases.is_some(), "{channel}");
                return;
            }
        }
    };
    let subscriptions = channels.iter().flat_map(|channel| (0..4).map(move |at| (channel, at)));
    let subscriptions =
        futures_util::future::join_all(subscriptions.map(|(channel, at)| subscribe(channel, at)));
    tokio::join!(publishing, subscriptions);
    println!("{full_after:?} of 20 chains began in full");
    assert!(full_after.iter().all(|full| full.get() < 20), "{full_after:?}: some received no base");
}

/// The same for an existing subscriber, as when Sockudo's library opts in.
async fn late_opt_in_receives_initial_bases(backend: Backend) {
    let cluster = cluster(backend, "", &format!("{NO_INTERVAL}\ncache_sync = true")).await;
    let caller = cluster.caller("1");
    for symbol in ["a", "b"] {
        publish(&caller, CHANNEL, &tick(symbol, 1)).await;
    }
    let mut browser = cluster.second().browser("key1").await;
    browser.subscribe(CHANNEL).await;
    publish(&caller, CHANNEL, &tick("a", 2)).await;
    browser.expect_event(CHANNEL, "tick").await;
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
    browser.find_event("pusher:delta_compression_enabled").await;
    let bases = browser.expect_event(CHANNEL, "pusher:delta_cache_sync").await.data_json();
    assert_eq!(bases["states"].as_object().map(|states| states.len()), Some(2), "{bases}");
    for symbol in ["a", "b"] {
        publish(&caller, CHANNEL, &tick(symbol, 3)).await;
        browser.expect_event(CHANNEL, "pusher:delta").await;
    }
    // A second opt-in changes nothing.
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
    browser.find_event("pusher:delta_compression_enabled").await;
    publish(&caller, CHANNEL, &tick("a", 4)).await;
    browser.expect_event(CHANNEL, "pusher:delta").await;
}

/// Clients keep bases by key across connections: without initial bases, the server
/// sends an empty cache sync, which clears them.
async fn new_subscriber_without_initial_bases_receives_empty_cache_sync(backend: Backend) {
    let cluster = cluster(backend, ", max_messages_per_key = 7", NO_INTERVAL).await;
    let caller = cluster.caller("1");
    publish(&caller, CHANNEL, &tick("a", 1)).await;
    let mut browser = cluster.second().browser("key1").await;
    browser.subscribe_with(CHANNEL, on()).await;
    browser.expect_event(CHANNEL, "pusher:delta_compression_enabled").await;
    let frame = browser.expect_event(CHANNEL, "pusher:delta_cache_sync").await;
    let expected = json!({ "conflation_key": "symbol", "max_messages_per_key": 7, "states": {} });
    assert_eq!(frame.data_json(), expected);
    publish(&caller, CHANNEL, &tick("a", 2)).await;
    browser.expect_event(CHANNEL, "tick").await;

    // No cache sync for a subscriber without deltas, and none on a channel without
    // keys.
    let mut plain = cluster.second().browser("key1").await;
    plain.subscribe(CHANNEL).await;
    plain.subscribe_with("plain", on()).await;
    plain.expect_event("plain", "pusher:delta_compression_enabled").await;
    publish(&caller, CHANNEL, &tick("a", 3)).await;
    plain.expect_event(CHANNEL, "tick").await;
    publish(&caller, "plain", &tick("a", 3)).await;
    plain.expect_event("plain", "tick").await;
}

/// How each of these events was encoded for a subscriber with deltas on `channel`.
async fn encoding(server: &Server, channel: &str, events: &[(String, Option<bool>)]) -> Vec<Encoding> {
    let mut reader = ResumingClient::without_positions(server, channel, on()).await;
    let mut encoding = Vec::new();
    for (data, delta) in events {
        let mut event = event(channel, data);
        if let Some(delta) = delta {
            event["delta"] = (*delta).into();
        }
        server.caller("1").post_events(event).await.expect_ok();
        encoding.extend(reader.events(std::slice::from_ref(data)).await);
    }
    encoding
}

#[tokio::test]
async fn event_member_delta_forces_or_forbids_delta() {
    use Encoding::{Delta, Full, Plain};
    let ticks_with = |deltas: &[Option<bool>]| -> Vec<(String, Option<bool>)> {
        deltas.iter().enumerate().map(|(at, delta)| (tick("a", at), *delta)).collect()
    };
    let (yes, no) = (Some(true), Some(false));
    let off = AppSpec::new("1").set("channel_delta_compression", r#"{ "off-*" = "disabled" }"#);
    let builder = Server::builder().config(&format!("[delta_compression]\n{NO_INTERVAL}\n")).app(off);
    let server = builder.start().await;
    let events = ticks_with(&[None, None, no, None, yes, no, yes]);
    assert_eq!(encoding(&server, "news", &events).await, [Full, Delta, Full, Delta, Delta, Full, Delta]);
    // Where deltas are off, only events that request one are in the chain.
    let events = ticks_with(&[None, yes, None, yes, no, yes]);
    assert_eq!(encoding(&server, "off-news", &events).await, [Plain, Full, Plain, Delta, Plain, Delta]);

    // `delta: true` overrides the minimum size, but not the interval.
    let config = "[delta_compression]\nmin_message_size = 10000\nfull_message_interval = 0\n";
    let server = Server::builder().config(config).start().await;
    let events = ticks_with(&[None, None, yes, None, yes]);
    assert_eq!(encoding(&server, "news", &events).await, [Full, Full, Delta, Full, Delta]);
    let config = "[delta_compression]\nfull_message_interval = 1\n";
    let server = Server::builder().config(config).start().await;
    let encoding = encoding(&server, "news", &ticks_with(&[yes; 20])).await;
    let full = encoding.iter().filter(|encoding| **encoding == Full).count();
    assert!((10..=11).contains(&full), "{encoding:?}");
}

/// protocol.md 3.2: the subscription's format takes precedence over the channel's,
/// and that over the server's.
#[tokio::test]
async fn delta_algorithm_is_chosen_by_subscription_then_channel_then_server() {
    let patterns = r#"{ "x-*" = "xdelta3", "f-*" = { algorithm = "fossil" }, "as-*" = "inherit" }"#;
    let app = AppSpec::new("1").set("channel_delta_compression", patterns);
    for (server_default, other) in [("fossil", "xdelta3"), ("xdelta3", "fossil")] {
        let config = format!("[delta_compression]\n{NO_INTERVAL}\nalgorithm = \"{server_default}\"\n");
        let server = Server::builder().config(&config).app(app.clone()).start().await;
        let caller = server.caller("1");
        let mut number = 0;
        for (channel, delta, global, expected) in [
            ("news", json!(true), None, Some(server_default)),
            ("as-news", json!(true), None, Some(server_default)),
            ("x-news", json!(true), None, Some("xdelta3")),
            ("f-news", json!({}), None, Some("fossil")),
            ("x-news", json!("fossil"), None, Some("fossil")),
            ("f-news", json!("vcdiff"), None, Some("xdelta3")),
            ("news", json!(other), None, Some(other)),
            ("x-news", json!(null), Some(json!(["fossil", "xdelta3"])), Some("xdelta3")),
            ("x-news", json!(null), Some(json!(["fossil"])), Some("fossil")),
            ("news", json!(null), Some(json!([server_default, other])), Some(server_default)),
            ("news", json!(other), Some(json!([server_default])), Some(other)),
            ("news", json!(false), Some(json!([server_default])), None),
            ("news", json!(null), None, None),
        ] {
            let mut browser = server.browser("key1").await;
            if let Some(algorithms) = &global {
                let data = json!({ "algorithms": algorithms });
                browser.send(json!({ "event": "pusher:enable_delta_compression", "data": data })).await;
                browser.find_event("pusher:delta_compression_enabled").await;
            }
            let members = if delta.is_null() { json!({}) } else { json!({ "delta": delta }) };
            browser.subscribe_with(channel, members).await;
            let mut reader = ResumingClient { browser, state: Default::default(), channel: channel.into() };
            let case = format!("{channel} {delta} {global:?} {server_default}");
            for encoding in [Encoding::Full, Encoding::Delta] {
                number += 1;
                publish(&caller, channel, &tick("a", number)).await;
                let event = reader.event().await;
                let encoding = if expected.is_some() { encoding } else { Encoding::Plain };
                assert_eq!((event.encoding, event.data), (encoding, tick("a", number)), "{case}");
                assert_eq!(
                    event.algorithm.as_deref(),
                    expected.filter(|_| encoding == Encoding::Delta),
                    "{case}"
                );
            }
        }
    }
}

/// The comparison uses the sizes of the frames on the wire.
#[tokio::test]
async fn delta_is_sent_only_where_its_frame_is_smaller() {
    let mut rng = Seed::new().rng();
    let noise = |len: usize, rng: &mut rand::rngs::StdRng| -> String {
        (0..len).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
    };
    let fixed = noise(600, &mut rng);
    let events: Vec<(String, Option<bool>)> =
        (0..60).map(|at| (format!("{fixed}{}", noise(at * 20, &mut rng)), None)).collect();
    // Never, sometimes, always.
    let mut bytes = Vec::new();
    for ratio in ["0.0", "0.6", "1.0"] {
        let server = server(&format!("{NO_INTERVAL}\nmin_compression_ratio = {ratio}")).await;
        let mut reader = ResumingClient::without_positions(&server, "news", on()).await;
        let mut of_ratio = Vec::new();
        for (data, _) in &events {
            publish(&server.caller("1"), "news", data).await;
            let event = reader.event().await;
            assert_eq!(&event.data, data);
            of_ratio.push((event.encoding, event.bytes));
        }
        bytes.push(of_ratio);
    }
    let mut kinds = BTreeMap::new();
    let by_event = bytes[0].iter().zip(&bytes[1]).zip(&bytes[2]).skip(1);
    for ((&(full, full_bytes), &(encoding, _)), &(_, delta_bytes)) in by_event {
        assert_eq!(full, Encoding::Full);
        let share = delta_bytes as f64 / full_bytes as f64;
        // Sequence numbers of different servers may differ by some digits.
        if (share - 0.6).abs() > 0.02 {
            assert_eq!(encoding, if share < 0.6 { Encoding::Delta } else { Encoding::Full }, "{share}");
        }
        *kinds.entry(format!("{encoding:?}")).or_insert(0) += 1;
    }
    println!("{kinds:?}");
    assert_eq!(kinds.len(), 2);
}

#[tokio::test]
async fn small_events_are_not_delta_encoded() {
    let server = server(&format!("{NO_INTERVAL}\nmin_message_size = 500")).await;
    let mut reader = ResumingClient::without_positions(&server, "news", on()).await;
    for length in 300..600 {
        publish(&server.caller("1"), "news", &"x".repeat(length)).await;
        let event = reader.event().await;
        let encoding = if event.text.len() >= 500 && length > 300 { Encoding::Delta } else { Encoding::Full };
        assert_eq!(event.encoding, encoding, "{}", event.text.len());
    }
    assert!(server.metrics().await.sum("fanfare_deltas_encoded_total") < 150.0);
}

/// At most one resync per second, however often the client requests one; the others
/// are counted as ignored.
#[tokio::test]
async fn repeated_delta_sync_errors_cause_one_resync_per_second() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = ResumingClient::without_positions(&server, CHANNEL, on()).await;
    for number in 0..4 {
        publish(&caller, CHANNEL, &tick(["a", "b"][number % 2], number)).await;
        reader.event().await;
    }
    let lost = json!({ "event": "pusher:delta_sync_error", "data": { "channel": CHANNEL } });
    let began = Instant::now();
    for _ in 0..50 {
        reader.browser.send(lost.clone()).await;
    }
    reader.browser.settle().await;
    // One, unless this machine takes seconds for it.
    let syncs_max = 1 + began.elapsed().as_secs();
    let metrics = server.metrics().await;
    let syncs = metrics.sum("fanfare_delta_resyncs_total");
    assert!(syncs >= 1.0 && syncs <= syncs_max as f64, "{syncs}, not 1 to {syncs_max}");
    assert_eq!(metrics.sum("fanfare_delta_resyncs_ignored_total"), 50.0 - syncs);
    // Each chain restarts once; the request may be queued after the event.
    let mut full = 0;
    for number in 4..24 {
        let data = tick(["a", "b"][number % 2], number);
        publish(&caller, CHANNEL, &data).await;
        full += usize::from(reader.events(&[data]).await == [Encoding::Full]);
    }
    assert_eq!(full, 2);
    // Requests for a channel without a subscription, or for an invalid name, have
    // no effect.
    for channel in [json!("other"), json!(""), json!("\u{7}")] {
        reader
            .browser
            .send(json!({ "event": "pusher:delta_sync_error", "data": { "channel": channel } }))
            .await;
    }
    reader.browser.settle().await;
    assert_eq!(server.metrics().await.sum("fanfare_delta_resyncs_total"), syncs);
}
