//! Tag filters on real subscriptions (protocol.md 4): the events that pass, the
//! filters that are refused, and the shared evaluation of equal filters.

use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};

use crate::support::delta_client::Encoding;
use crate::support::{
    AppSpec, Backend, Browser, Caller, Cluster, ResumingClient, Server, bounded, on_both_backends,
};

on_both_backends![
    filter_operators_select_events,
    event_without_tags_matches_negative_filters_only,
    filter_selects_by_event_name,
    tags_filter_member_applies_without_filter_member,
    resubscription_replaces_filter,
    subscriber_without_filter_receives_every_event,
    delta_base_is_last_event_that_passed_filter,
];

const CONFIG: &str = "[delta_compression]\nfull_message_interval = 0\n[tag_filtering]\nenabled = true\n";
/// The number of subscribers, and of their different filters.
const SUBSCRIBERS: usize = 10_000;
const FILTERS: usize = 100;

async fn cluster(backend: Backend) -> Cluster {
    Cluster::builder(backend).config(CONFIG).start().await
}

async fn server() -> Server {
    Server::builder().config(CONFIG).start().await
}

fn text(number: usize) -> String {
    json!({ "number": number, "same": "all the same ".repeat(30) }).to_string()
}

async fn publish(caller: &Caller, name: &str, tags: Value) {
    let mut event = json!({ "name": name, "channel": "news", "data": "x" });
    if !tags.is_null() {
        event["tags"] = tags;
    }
    caller.post_events(event).await.expect_ok();
}

/// Each subscriber must receive exactly the listed ones of these events.
async fn expect_of(cluster: &Cluster, cases: &[(Value, &[&str])]) {
    let caller = cluster.caller("1");
    let mut browsers = Vec::new();
    for (filter, _) in cases {
        let mut browser = cluster.second().browser("key1").await;
        browser.subscribe_with("news", json!({ "filter": filter })).await;
        browsers.push(browser);
    }
    let events = [
        ("none", json!(null)),
        ("empty", json!({})),
        ("goal", json!({ "kind": "goal", "minute": "7" })),
        ("card", json!({ "kind": "card", "minute": "12.5", "team": "" })),
        ("Goal", json!({ "kind": "Goal", "minute": "later" })),
        ("own-goal", json!({ "kind": "own-goal", "minute": "1e2", "true": "true" })),
    ];
    for (name, tags) in &events {
        publish(&caller, name, tags.clone()).await;
    }
    for ((filter, names), browser) in cases.iter().zip(&mut browsers) {
        for name in *names {
            let frame = browser.next().await;
            assert_eq!(frame.event, *name, "{filter}");
        }
    }
    // No other event arrives.
    let all = json!({ "kind": "goal", "minute": "7", "end": "1" });
    publish(&caller, "end", all).await;
    for ((filter, _), browser) in cases.iter().zip(&mut browsers) {
        browser.subscribe("other").await;
        cluster.caller("1").publish("other", "marker", "x").await;
        let mut frame = browser.next().await;
        if frame.event == "end" {
            frame = browser.next().await;
        }
        assert_eq!(frame.event, "marker", "{filter}");
        browser.unsubscribe("other").await;
    }
}

async fn filter_operators_select_events(backend: Backend) {
    let cluster = cluster(backend).await;
    let leaf = |cmp: &str, val: Value| json!({ "key": "kind", "cmp": cmp, "val": val });
    let minute = |cmp: &str, val: Value| json!({ "key": "minute", "cmp": cmp, "val": val });
    let of = |op: &str, nodes: &[Value]| json!({ "op": op, "nodes": nodes });
    let goal = leaf("eq", json!("goal"));
    expect_of(
        &cluster,
        &[
            (goal.clone(), &["goal"]),
            (leaf("neq", json!("goal")), &["none", "empty", "card", "Goal", "own-goal"]),
            (json!({ "key": "kind", "cmp": "in", "vals": ["goal", "card"] }), &["goal", "card"]),
            (
                json!({ "key": "kind", "cmp": "nin", "vals": ["goal", "card"] }),
                &["none", "empty", "Goal", "own-goal"],
            ),
            (json!({ "key": "team", "cmp": "ex" }), &["card"]),
            (json!({ "key": "team", "cmp": "nex" }), &["none", "empty", "goal", "Goal", "own-goal"]),
            (leaf("sw", json!("go")), &["goal"]),
            (leaf("ew", json!("goal")), &["goal", "own-goal"]),
            (leaf("ct", json!("-go")), &["own-goal"]),
            (minute("gt", json!("7")), &["card", "own-goal"]),
            (minute("gte", json!(7)), &["goal", "card", "own-goal"]),
            (minute("lt", json!(12.5)), &["goal"]),
            (minute("lte", json!("12.50")), &["goal", "card"]),
            (minute("lte", json!("no number")), &[]),
            (json!({ "key": "true", "cmp": "eq", "val": true }), &["own-goal"]),
            (of("and", &[leaf("ew", json!("goal")), minute("gt", json!("50"))]), &["own-goal"]),
            (of("or", &[goal.clone(), minute("gt", json!("50"))]), &["goal", "own-goal"]),
            (of("not", std::slice::from_ref(&goal)), &["none", "empty", "card", "Goal", "own-goal"]),
            (of("not", &[of("or", &[goal.clone(), leaf("nex", json!("x"))])]), &["card", "Goal", "own-goal"]),
        ],
    )
    .await;
}

async fn event_without_tags_matches_negative_filters_only(backend: Backend) {
    let cluster = cluster(backend).await;
    let untagged: &[&str] = &["none", "empty"];
    expect_of(
        &cluster,
        &[
            (json!({ "key": "kind", "cmp": "nex" }), untagged),
            (json!({ "op": "not", "nodes": [{ "key": "minute", "cmp": "ex" }] }), untagged),
            (json!({ "key": "other", "cmp": "ct", "val": "x" }), &[]),
        ],
    )
    .await;
}

async fn filter_selects_by_event_name(backend: Backend) {
    let cluster = cluster(backend).await;
    let goal = json!({ "key": "kind", "cmp": "ew", "val": "goal" });
    expect_of(
        &cluster,
        &[
            (json!({ "events": ["card", "goal"] }), &["goal", "card"]),
            (json!({ "events": ["card", "goal"], "tags": goal }), &["goal"]),
            (json!({ "events": [], "tags": goal }), &["goal", "own-goal"]),
            (json!({ "tags": goal }), &["goal", "own-goal"]),
        ],
    )
    .await;
}

async fn tags_filter_member_applies_without_filter_member(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let is = |kind: &str| json!({ "key": "kind", "cmp": "eq", "val": kind });
    let mut alone = cluster.second().browser("key1").await;
    alone.subscribe_with("news", json!({ "tags_filter": is("b") })).await;
    let mut both = cluster.second().browser("key1").await;
    both.subscribe_with("news", json!({ "filter": is("a"), "tags_filter": is("b") })).await;
    for kind in ["a", "b", "c"] {
        publish(&caller, kind, json!({ "kind": kind })).await;
    }
    publish(&caller, "end-b", json!({ "kind": "b" })).await;
    publish(&caller, "end-a", json!({ "kind": "a" })).await;
    for name in ["b", "end-b"] {
        alone.expect_event("news", name).await;
    }
    for name in ["a", "end-a"] {
        both.expect_event("news", name).await;
    }
}

async fn resubscription_replaces_filter(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let is = |kind: &str| json!({ "filter": { "key": "kind", "cmp": "eq", "val": kind } });
    let mut browser = cluster.second().browser("key1").await;
    browser.subscribe_with("news", is("a")).await;
    publish(&caller, "1", json!({ "kind": "a" })).await;
    publish(&caller, "2", json!({ "kind": "b" })).await;
    publish(&caller, "after it", json!({ "kind": "a" })).await;
    browser.expect_event("news", "1").await;
    browser.expect_event("news", "after it").await;
    browser.subscribe_with("news", is("b")).await;
    publish(&caller, "3", json!({ "kind": "a" })).await;
    publish(&caller, "4", json!({ "kind": "b" })).await;
    browser.expect_event("news", "4").await;
    browser.subscribe("news").await;
    publish(&caller, "5", json!({ "kind": "c" })).await;
    browser.expect_event("news", "5").await;
    assert_eq!(caller.subscription_count("news").await, 1);
}

async fn subscriber_without_filter_receives_every_event(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    for (name, tags) in [("a", json!(null)), ("b", json!({ "kind": "x" }))] {
        publish(&caller, name, tags).await;
        let frame = subscribers.expect_event("news", name).await;
        // Pusher's plain frame: this subscriber has opted in to nothing.
        assert_eq!(frame.text, format!(r#"{{"event":"{name}","channel":"news","data":"x"}}"#));
    }
}

async fn delta_base_is_last_event_that_passed_filter(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut readers = Vec::new();
    for (kinds, delta) in
        [(["a", "b"], "fossil"), (["b", "c"], "fossil"), (["b", "c"], "xdelta3"), (["c", "c"], "fossil")]
    {
        let filter = json!({ "key": "kind", "cmp": "in", "vals": kinds });
        let members = json!({ "filter": filter, "delta": delta });
        readers.push((kinds, ResumingClient::on(cluster.second(), "news", members).await));
    }
    let kinds = ["a", "b", "c", "a", "a", "c", "c", "b", "d", "a", "b", "c"];
    for round in 0..3 {
        let event = |(at, kind): (usize, &&str)| {
            let data = text(round * kinds.len() + at);
            json!({ "name": "e", "channel": "news", "data": data, "tags": { "kind": kind } })
        };
        // As single events, and as batches.
        let events: Vec<Value> = kinds.iter().enumerate().map(event).collect();
        for batch in events.chunks(1 + 4 * round) {
            caller.post_batch(batch.into()).await.expect_ok();
        }
        for (wanted, reader) in &mut readers {
            for (at, kind) in kinds.iter().enumerate().filter(|(_, kind)| wanted.contains(kind)) {
                let event = reader.event().await;
                assert_eq!(event.data, text(round * kinds.len() + at), "{kind}");
                let is_first = round == 0 && Some(at) == kinds.iter().position(|kind| wanted.contains(kind));
                let encoding = if is_first { Encoding::Full } else { Encoding::Delta };
                assert_eq!(event.encoding, encoding, "{wanted:?} {round} {at}");
            }
        }
    }
}

fn wanted() -> Value {
    json!({ "key": "kind", "cmp": "eq", "val": "a" })
}

fn many(count: usize) -> Vec<Value> {
    vec![json!({ "key": "k", "cmp": "ex" }); count]
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({ "key": "k", "cmp": "ex" }), |node, _| json!({ "op": "not", "nodes": [node] }))
}

/// Different searches, which take the longest in the tag of [`repetitive`]: all their letters are
/// frequent there, and most of each text occurs everywhere.
fn searches(filter: u8, count: usize) -> Vec<Value> {
    let search = |number: usize| {
        let bits = format!("{filter:08b}{number:08b}").replace('0', "a").replace('1', "b");
        json!({ "key": "k", "cmp": "ct", "val": format!("{}aa{bits}", "ba".repeat(20)) })
    };
    (0..count).map(search).collect()
}

/// The tag with which searches take the longest.
fn repetitive() -> Value {
    json!({ "k": "ab".repeat(1_950) })
}

fn long_values(count: usize) -> Value {
    let values: Vec<String> = (0..count).map(|number| format!("{number:01024}")).collect();
    json!({ "op": "or", "nodes": [{ "key": "k", "cmp": "in", "vals": values }, { "key": "kkkkkkkkkkkkkkkk", "cmp": "ex" }] })
}

/// Invalid filters, and the path in the error of each.
fn invalid_filters() -> Vec<(Value, &'static str)> {
    vec![
        (json!(7), "filter"),
        (json!("kind"), "filter"),
        (json!([]), "filter"),
        (json!({}), "filter"),
        (json!({ "key": "k" }), "filter"),
        (json!({ "key": "k", "cmp": "like", "val": "x" }), "filter.cmp"),
        (json!({ "key": "", "cmp": "ex" }), "filter.key"),
        (json!({ "cmp": "ex" }), "filter.key"),
        (json!({ "key": "k", "cmp": "eq" }), "filter.val"),
        (json!({ "key": "k", "cmp": "eq", "val": "" }), "filter.val"),
        (json!({ "key": "k", "cmp": "eq", "val": null }), "filter.val"),
        (json!({ "key": "k", "cmp": "in", "vals": [] }), "filter.vals"),
        (json!({ "key": "k", "cmp": "in", "vals": [{}] }), "filter.vals[0]"),
        (json!({ "key": "k", "cmp": "in", "val": "x" }), "filter.vals"),
        (json!({ "op": "xor", "nodes": many(1) }), "filter.op"),
        (json!({ "op": "and", "nodes": [] }), "filter.nodes"),
        (json!({ "op": "and" }), "filter.nodes"),
        (json!({ "op": "not", "nodes": many(2) }), "filter.nodes"),
        (json!({ "op": "and", "nodes": [wanted(), { "key": 7, "cmp": "ex" }] }), "filter.nodes[1].key"),
        (json!({ "op": "and", "cmp": "ex", "key": "k", "nodes": many(1) }), "filter"),
        (json!({ "events": "goal" }), "filter.events"),
        (json!({ "events": [7] }), "filter.events[0]"),
        (json!({ "events": ["goal"], "key": "k", "cmp": "ex" }), "filter"),
        (json!({ "tags": 7 }), "filter.tags"),
        (json!({ "expression": "a == 'b'" }), "filter.expression"),
        // The limits of a filter.
        (json!({ "op": "or", "nodes": many(128) }), "filter.nodes[127]"),
        (json!({ "key": "k", "cmp": "in", "vals": vec!["v"; 129] }), "filter.vals"),
        (json!({ "key": "k".repeat(257), "cmp": "ex" }), "filter.key"),
        (json!({ "key": "k", "cmp": "eq", "val": "v".repeat(1_025) }), "filter.val"),
        (json!({ "events": vec!["e"; 65] }), "filter.events"),
        (json!({ "events": ["e".repeat(257)] }), "filter.events[0]"),
        (nested(17), "filter.nodes[0]"),
        (json!({ "op": "or", "nodes": searches(b'a', 21) }), "filter` has a cost of 2100 (limit: 2000)"),
        (long_values(17), "filter` has 17425 bytes of names, keys and values (limit: 16384)"),
    ]
}

/// The socket stays usable, and keeps its earlier subscription.
#[tokio::test]
async fn invalid_filter_is_refused() {
    let server = server().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    browser.subscribe_with("news", json!({ "filter": wanted() })).await;
    for (filter, at) in invalid_filters() {
        for channel in ["news", "olds"] {
            browser.request_subscription_with(channel, json!({ "filter": filter })).await;
            let error = browser.expect_subscription_error(channel).await;
            assert_eq!(
                (&error["type"], &error["status"]),
                (&json!("InvalidFilter"), &json!(400)),
                "{filter}"
            );
            let text = error["error"].as_str().unwrap();
            assert!(text.starts_with(&format!("`{at}")), "{filter}: {text}");
        }
    }
    browser.request_subscription_with("olds", json!({ "tags_filter": { "cmp": "ex" } })).await;
    let error = browser.expect_subscription_error("olds").await;
    assert!(error["error"].as_str().unwrap().starts_with("`tags_filter.key`"), "{error}");
    publish(&caller, "no", json!({ "kind": "b" })).await;
    publish(&caller, "yes", json!({ "kind": "a" })).await;
    browser.expect_event("news", "yes").await;

    // Filters at the limits are accepted.
    for filter in [
        json!({ "op": "or", "nodes": many(127) }),
        json!({ "key": "k", "cmp": "in", "vals": vec!["v"; 128] }),
        json!({ "key": "k".repeat(256), "cmp": "eq", "val": "v".repeat(1_024) }),
        json!({ "events": vec!["e".repeat(256); 64] }),
        nested(16),
        json!({ "op": "or", "nodes": searches(b'a', 20) }),
        long_values(15),
    ] {
        browser.subscribe_with("olds", json!({ "filter": filter })).await;
    }
}

/// Equal filters count once, and the last subscription with a filter returns its cost.
#[tokio::test]
async fn cost_of_filters_on_a_channel_is_limited() {
    let server = server().await;
    let filter = |name: u8| json!({ "filter": { "op": "or", "nodes": searches(name, 20) } });
    let mut holder = server.browser("key1").await;
    let mut browsers = Vec::new();
    for name in *b"abcdea" {
        let mut browser = server.browser("key1").await;
        browser.subscribe_with("news", filter(name)).await;
        browsers.push(browser);
    }
    holder.subscribe_with("news", json!({})).await;
    for attempt in 0..2 {
        holder.request_subscription_with("news", json!({ "filter": wanted() })).await;
        let error = holder.expect_subscription_error("news").await;
        assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4100)), "{attempt}");
        let text = "the filters of this channel have reached their limit of cost (limit: 10000)";
        assert_eq!(error["error"], text);
    }
    let refused = server.metrics().await.sum("fanfare_filters_refused_total");
    assert_eq!(refused, 2.0);
    publish(&server.caller("1"), "all", json!({})).await;
    assert_eq!(holder.next().await.event, "all", "the earlier subscription stays");

    // A refused subscription can be requested again.
    let mut late = server.browser("key1").await;
    late.request_subscription_with("news", filter(b'f')).await;
    late.expect_subscription_error("news").await;
    late.subscribe_with("olds", filter(b'f')).await;
    // Another subscription has the filter `a`.
    browsers[0].unsubscribe("news").await;
    late.request_subscription_with("news", filter(b'f')).await;
    late.expect_subscription_error("news").await;
    browsers[1].unsubscribe("news").await;
    late.subscribe_with("news", filter(b'f')).await;
}

/// Each of 10,000 subscriptions may have a small filter of its own.
#[tokio::test]
async fn small_filters_are_below_the_limits() {
    let server = server().await;
    let mut browser = server.browser("key1").await;
    for number in 0..1_000 {
        let filter = json!({ "key": "user", "cmp": "eq", "val": number.to_string() });
        let channel = format!("news-{}", number % 10);
        browser.subscribe_with(&channel, json!({ "filter": filter })).await;
    }
    assert_eq!(server.metrics().await.sum("fanfare_filters_refused_total"), 0.0);
}

/// The entries of an app whose filters take too much time wait in their order, and those of other
/// apps do not wait behind them.
#[tokio::test]
async fn expensive_filters_delay_no_other_app() {
    bounded(async {
        let server = server().await;
        let mut sockets = Vec::new();
        for name in *b"abcde" {
            let nodes = [searches(name, 19), vec![json!({ "key": "end", "cmp": "ex" })]].concat();
            let mut browser = server.browser("key1").await;
            browser.subscribe_with("news", json!({ "filter": { "op": "or", "nodes": nodes } })).await;
            browser.subscribe("plain").await;
            sockets.push(browser);
        }
        let slow = &mut sockets[0];
        let mut other = server.browser("key2").await;
        other.subscribe("news").await;

        const BATCHES: usize = 60;
        let caller = server.caller("1");
        let event = json!({ "name": "e", "channel": "news", "data": "x", "tags": repetitive() });
        for number in 0..BATCHES {
            let mut batch = vec![event.clone(); 9];
            batch.push(json!({ "name": number.to_string(), "channel": "plain", "data": "x" }));
            caller.post_batch(batch.into()).await.expect_ok();
        }
        publish(&caller, "end", json!({ "end": "1" })).await;
        server.caller("2").publish("news", "fast", "x").await;
        tokio::select! {
            biased;
            _ = other.find_event("fast") => {}
            _ = slow.find_event("end") => panic!("the other app has waited"),
        }
        // The searches do not match. The events of the other channel arrive, in their order.
        for number in 0..BATCHES {
            assert_eq!(slow.next().await.event, number.to_string());
        }
        assert_eq!(slow.find_event("end").await.event, "end");
        let metrics = server.metrics().await;
        assert!(metrics.sum("fanfare_filter_entries_delayed_total") > 0.0);
        assert_eq!(metrics.sum("fanfare_filter_entries_dropped_total"), 0.0);
    })
    .await;
}

#[tokio::test]
async fn filter_is_refused_when_disabled_on_server() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    for member in ["filter", "tags_filter"] {
        browser.request_subscription_with("news", json!({ member: { "key": "k", "cmp": "ex" } })).await;
        let error = browser.expect_subscription_error("news").await;
        assert_eq!((&error["type"], &error["status"]), (&json!("Unsupported"), &json!(422)), "{error}");
        assert!(error["error"].as_str().unwrap().contains("tag_filtering.enabled"), "{error}");
    }
    browser.subscribe("news").await;
    publish(&server.caller("1"), "e", json!({ "k": "v" })).await;
    browser.expect_event("news", "e").await;
}

/// Tags are included for subscribers with an extension enabled, where the server
/// and the channel enable tags.
#[tokio::test]
async fn envelope_contains_tags_by_setting() {
    let app =
        || AppSpec::new("1").set("channel_delta_compression", r#"{ "bare-*" = { enable_tags = false } }"#);
    for (config, shown) in [
        ("enabled = true", true),
        ("enabled = true\nenable_tags = true", true),
        ("enabled = true\nenable_tags = false", false),
    ] {
        let config = format!("[tag_filtering]\n{config}\n");
        let server = Server::builder().config(&config).app(app()).start().await;
        for (channel, shown) in [("news", shown), ("bare-news", false)] {
            for members in [
                json!({ "delta": true }),
                json!({ "resume": true }),
                json!({ "filter": { "key": "a", "cmp": "ex" } }),
                json!({}),
            ] {
                let shown = shown && members != json!({});
                let mut browser = server.browser("key1").await;
                browser.subscribe_with(channel, members.clone()).await;
                let tags = json!({ "a": "\"1\"", "b": "ž" });
                let event = json!({ "name": "e", "channel": channel, "data": "x", "tags": tags });
                server.caller("1").post_events(event).await.expect_ok();
                let frame = browser.find_event("e").await;
                let envelope: Value = serde_json::from_str(&frame.text).unwrap();
                let expected = if shown { tags } else { Value::Null };
                assert_eq!(envelope["tags"], expected, "{channel} {members}: {}", frame.text);
            }
        }
    }
}

/// The number of evaluations per event is the number of distinct filters,
/// independent of the number of sockets and of their delivery options.
#[tokio::test]
async fn subscribers_with_equal_filters_share_one_evaluation() {
    bounded(async {
        let server = server().await;
        let caller = server.caller("1");
        let began = Instant::now();
        let one = async |number: usize| {
            let mut browser = server.browser("key1").await;
            browser.subscribe_with("news", members(number)).await;
            browser
        };
        let mut sockets: Vec<Browser> = stream::iter(0..SUBSCRIBERS).map(one).buffered(64).collect().await;
        println!("{SUBSCRIBERS} subscribed in {:?}", began.elapsed());
        let evaluations = async || server.metrics().await.sum("fanfare_filter_evaluations_total");
        let before = evaluations().await;
        const EVENTS: usize = 20;
        for number in 0..EVENTS {
            let tags = json!({ "room": number.to_string(), "floor": "1" });
            let event = json!({ "name": "e", "channel": "news", "data": text(number), "tags": tags });
            caller.post_events(event).await.expect_ok();
        }
        let end = json!({ "name": "end", "channel": "news", "data": "x", "tags": { "all": "1" } });
        caller.post_events(end).await.expect_ok();
        let mut received = 0;
        for (number, browser) in sockets.iter_mut().enumerate() {
            loop {
                let frame = browser.next().await;
                if ["pusher:delta_compression_enabled", "pusher:position"].contains(&frame.event.as_str()) {
                    continue;
                }
                if frame.event == "end" {
                    break;
                }
                // Of the events, the one with its room tag.
                assert_eq!(number_in(&frame.text), number % FILTERS, "{}", frame.text);
                received += 1;
            }
        }
        let evaluated = evaluations().await - before;
        let per_event = evaluated / (EVENTS + 1) as f64;
        println!("{SUBSCRIBERS} subscribers with {FILTERS} filters: {per_event} evaluations per event, {received} received");
        assert_eq!(per_event, FILTERS as f64);
        assert_eq!(received, SUBSCRIBERS / FILTERS * EVENTS);
    })
    .await;
}

/// The member `number` of the payload, however deep it is quoted.
fn number_in(frame: &str) -> usize {
    let (_, rest) = frame.split_once("number").expect("an event has a number");
    let digits = rest.trim_start_matches(['\\', '"', ':']);
    digits.split(',').next().unwrap().parse().unwrap()
}

/// A hundred filters, each written in several ways, for sockets with several
/// delivery options.
fn members(number: usize) -> Value {
    let room = json!({ "key": "room", "cmp": "eq", "val": (number % FILTERS).to_string() });
    let all = json!({ "key": "all", "cmp": "ex" });
    let variant = number / FILTERS;
    let nodes = if variant.is_multiple_of(2) { json!([room, all]) } else { json!([all, room, all]) };
    let filter = json!({ "op": "or", "nodes": nodes });
    let mut members = match variant % 3 {
        0 => json!({ "filter": filter }),
        1 => json!({ "tags_filter": filter }),
        _ => json!({ "filter": { "events": [], "tags": filter } }),
    };
    match variant % 4 {
        1 => members["delta"] = "fossil".into(),
        2 => members["delta"] = "xdelta3".into(),
        3 => members["resume"] = true.into(),
        _ => {}
    }
    members
}
