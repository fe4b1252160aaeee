//! Rate limits of publishing and of queries per app (protocol.md 1.8), counted over the
//! whole cluster. A window is one second. The tests use no clock: the headers of the
//! responses show to which window they belong.

use std::cell::Cell;
use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::server::AppSpec;
use crate::support::{
    Answer, Backend, Caller, Cluster, STEP_TIMEOUT, Server, bounded, eventually, on_both_backends,
};

on_both_backends![
    rate_limit_headers_are_equal_for_events_and_batches,
    rate_limit_charges_or_refuses_a_batch_as_a_whole,
    rate_limit_batch_above_the_whole_limit_is_invalid,
    rate_limit_charges_nothing_for_invalid_requests,
    rate_limit_of_queries_is_separate_from_publishing,
    rate_limit_is_separate_per_app,
];

fn app(key: &str, limit: u64) -> AppSpec {
    AppSpec::new("1").set("max_event_batch_size", 1_000).set(key, limit)
}

async fn start(backend: Backend, limit: u64) -> Cluster {
    Cluster::builder(backend).app(app("max_backend_events_per_second", limit)).start().await
}

#[track_caller]
fn number(answer: &Answer, header: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header} with {}", answer.text()));
    value.parse().unwrap_or_else(|_| panic!("{header}: {value}"))
}

/// `x-ratelimit-remaining` of a response; checks its other rate limit headers.
#[track_caller]
fn remaining(answer: &Answer, limit: u64) -> u64 {
    assert_eq!(number(answer, "x-ratelimit-limit"), limit);
    let (remaining, reset) = (number(answer, "x-ratelimit-remaining"), number(answer, "x-ratelimit-reset"));
    assert!(remaining <= limit && reset <= 1, "{remaining} of {limit} left, reset in {reset} s");
    remaining
}

#[track_caller]
fn expect_limited(answer: &Answer, limit: u64) -> u64 {
    answer.expect_error(429, "rate_limited");
    assert_eq!(number(answer, "retry-after"), 1);
    remaining(answer, limit)
}

fn event(channels: &[&str]) -> Value {
    json!({ "name": "e", "channels": channels, "data": "x" })
}

/// The remaining count; sends an empty batch, which costs nothing.
async fn query_remaining(caller: &Caller, limit: u64) -> u64 {
    let answer = caller.post_batch(json!([])).await;
    answer.expect_ok();
    remaining(&answer, limit)
}

/// Waits for a window in which nothing has been charged.
async fn fresh_window(caller: &Caller, limit: u64) {
    eventually("an unused window", STEP_TIMEOUT, async || match query_remaining(caller, limit).await {
        left if left == limit => Ok(()),
        left => Err(format!("{left} are left")),
    })
    .await;
}

/// Repeats `attempt`, each time from a fresh window, until it returns `Some`: it then ran
/// within one window.
async fn in_one_window<T>(caller: &Caller, limit: u64, attempt: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..20 {
        fresh_window(caller, limit).await;
        if let Some(done) = attempt().await {
            return done;
        }
    }
    panic!("twenty windows ended too early");
}

async fn rate_limit_headers_are_equal_for_events_and_batches(backend: Backend) {
    const LIMIT: u64 = 50;
    let cluster = start(backend, LIMIT).await;
    let (first, second) = (cluster.first().caller("1"), cluster.second().caller("1"));
    let names: Vec<String> = (0..40).map(|number| format!("c{}", number % 20)).collect();
    let many: Vec<&str> = names.iter().map(String::as_str).collect();
    let left = in_one_window(&first, LIMIT, async || {
        let mut left = Vec::new();
        let batch = json!([event(&["a", "b"]), event(&["c"]), event(&["a", "b", "c"])]);
        for answer in [
            first.post_events(event(&many)).await,
            second.post_batch(batch).await,
            first.post_batch(json!([])).await,
            second.post_events(event(&["a"])).await,
        ] {
            answer.expect_ok();
            left.push(remaining(&answer, LIMIT));
        }
        // If a new window had begun, more would remain than after the first request.
        left.iter().all(|left_later| *left_later <= left[0]).then_some(left)
    })
    .await;
    // An event costs one per distinct channel; an empty batch costs nothing.
    assert_eq!(left, [30, 24, 24, 23]);
}

async fn rate_limit_charges_or_refuses_a_batch_as_a_whole(backend: Backend) {
    const LIMIT: u64 = 10;
    let cluster = start(backend, LIMIT).await;
    let (first, second) = (cluster.first().caller("1"), cluster.second().caller("1"));
    let mut subscribers = cluster.subscribers(&["a"]).await;
    let batch = |name: &str, count: usize| -> Value {
        (0..count).map(|_| json!({ "name": name, "channel": "a", "data": "x" })).collect()
    };
    let attempts = in_one_window(&first, LIMIT, async || {
        let charged = first.post_batch(batch("charged", 8)).await;
        let refused = second.post_batch(batch("refused", 3)).await;
        let small = second.post_batch(batch("charged", 2)).await;
        let answers = [charged, refused, small];
        let statuses = answers.each_ref().map(|answer| answer.status);
        let left = answers.each_ref().map(|answer| remaining(answer, LIMIT));
        // A new window has begun: more remains than the first batch could have left.
        if left[1] == LIMIT - 3 || left[2] == LIMIT - 2 {
            return None;
        }
        assert_eq!(statuses, [200, 429, 200]);
        expect_limited(&answers[1], LIMIT);
        // The response to a refused batch has the count that remains for a smaller one.
        assert_eq!(left, [2, 2, 0]);
        Some(())
    });
    attempts.await;
    // No part of a refused batch reaches a subscriber. In attempts that crossed into a new
    // window, the whole batch was admitted.
    fresh_window(&first, LIMIT).await;
    first.publish("a", "end", "").await;
    for browser in &mut subscribers.0 {
        let mut names = Vec::new();
        while names.last().is_none_or(|name| name != "end") {
            names.push(browser.next().await.event);
        }
        assert_eq!(
            names[names.len() - 11..].iter().filter(|name| *name == "charged").count(),
            10,
            "{names:?}"
        );
        assert_eq!(names.iter().filter(|name| *name == "refused").count() % 3, 0, "{names:?}");
    }
}

async fn rate_limit_batch_above_the_whole_limit_is_invalid(backend: Backend) {
    const LIMIT: u64 = 10;
    let cluster = start(backend, LIMIT).await;
    let caller = cluster.caller("1");
    let names: Vec<String> = (0..11).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fresh_window(&caller, LIMIT).await;
    for answer in [
        caller.post_events(event(&names)).await,
        caller.post_batch(json!([event(&names[..6]), event(&names[..5])])).await,
    ] {
        let refusal = answer.expect_error(400, "limit_exceeded");
        refusal.of_field("channels");
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(answer.header("x-ratelimit-limit"), None);
        // There is no other publisher, so the full count proves that nothing was charged.
        assert_eq!(query_remaining(&caller, LIMIT).await, LIMIT);
    }
    let whole = caller.post_batch(json!([event(&names[..5]), event(&names[..5])])).await;
    whole.expect_ok();
    assert_eq!(remaining(&whole, LIMIT), 0);
}

async fn rate_limit_charges_nothing_for_invalid_requests(backend: Backend) {
    const LIMIT: u64 = 10;
    let cluster = start(backend, LIMIT).await;
    let caller = cluster.caller("1");
    fresh_window(&caller, LIMIT).await;
    for answer in [
        caller.post_events(json!({ "name": "e", "channel": "bad name", "data": "x" })).await,
        caller.post_batch(json!([event(&["a"]), 7])).await,
        caller.post_events(json!({ "name": "e", "channel": "a", "data": "x".repeat(11_000) })).await,
        caller.request("POST", "/batch_events").body("{").send().await,
    ] {
        answer.expect_refused(answer.status);
        assert_eq!(answer.header("x-ratelimit-limit"), None, "{}", answer.text());
        assert_eq!(query_remaining(&caller, LIMIT).await, LIMIT, "{}", answer.text());
    }
    // A response to a request with a wrong signature has no rate limit headers.
    let unsigned = caller.events(&event(&["a"])).secret("wrong").send().await;
    unsigned.expect_error(401, "auth_failed");
    assert_eq!(unsigned.header("x-ratelimit-limit"), None);
}

async fn rate_limit_of_queries_is_separate_from_publishing(backend: Backend) {
    const LIMIT: u64 = 5;
    let spec = app("max_backend_events_per_second", 1_000).set("max_read_requests_per_second", LIMIT);
    let cluster = Cluster::builder(backend).app(spec).start().await;
    let callers: Vec<Caller> = cluster.nodes.iter().map(|node| node.caller("1")).collect();
    // The remaining count after each query, of every kind and through every node.
    let mut refused = 0;
    let mut left = Vec::new();
    while refused < 3 {
        assert!(left.len() < 1_000, "no limit after a thousand queries");
        let caller = &callers[left.len() % callers.len()];
        let answer = match left.len() % 5 {
            0 => caller.get("/channels", &[]).await,
            1 => caller.get("/channels/news", &[]).await,
            2 => caller.get("/channels/presence-a/users", &[]).await,
            // An invalid query is charged too.
            3 => caller.get("/channels/news", &[("info", "weather")]).await,
            _ => caller.request("POST", "/users/1/terminate_connections").send().await,
        };
        match answer.status {
            429 => {
                refused += 1;
                assert_eq!(expect_limited(&answer, LIMIT), 0);
            }
            status => {
                assert_eq!(status, if left.len() % 5 == 3 { 400 } else { 200 }, "{}", answer.text());
                left.push(remaining(&answer, LIMIT));
            }
        }
    }
    // Each window counts down from the limit; the last window is used up.
    for (before, after) in left.iter().zip(&left[1..]) {
        assert!(*after == LIMIT - 1 || *after + 1 == *before, "{left:?}");
    }
    assert!(left.ends_with(&[4, 3, 2, 1, 0]), "{left:?}");
    // Publishing has its own limit.
    let published = callers[0].post_events(event(&["a"])).await;
    published.expect_ok();
    assert!(remaining(&published, 1_000) >= 990);
}

async fn rate_limit_is_separate_per_app(backend: Backend) {
    let other = AppSpec::new("2").set("max_backend_events_per_second", 3);
    let spec = app("max_backend_events_per_second", 3);
    let cluster = Cluster::builder(backend).app(spec).app(other).start().await;
    let (ours, theirs) = (cluster.caller("1"), cluster.caller("2"));
    fresh_window(&theirs, 3).await;
    let refused = async || ours.post_events(event(&["a"])).await.status == 429;
    eventually("a window that is used up", STEP_TIMEOUT, async || match refused().await {
        true => Ok(()),
        false => Err("accepted".into()),
    })
    .await;
    assert_eq!(query_remaining(&theirs, 3).await, 3);
}

/// Three nodes together admit as many events as one node would.
#[tokio::test]
async fn rate_limit_over_three_nodes_admits_exactly_the_limit() {
    bounded(async {
        const LIMIT: u64 = 100;
        let spec = app("max_backend_events_per_second", LIMIT);
        let cluster = Cluster::builder(Backend::Redis).nodes(3).app(spec).start().await;
        let nodes = &cluster.nodes;
        // Each caller has its own connection, so the requests are concurrent.
        let callers: Vec<Caller> = (0..30).map(|number| nodes[number % 3].caller("1")).collect();
        let mut browser = nodes[0].browser("key1").await;
        browser.subscribe("a").await;
        // Each attempt has its own event name, since admitted events of earlier attempts
        // arrive too.
        let attempts = Cell::new(0);
        let name = || format!("of attempt {}", attempts.get());
        let attempt = async || {
            attempts.update(|attempts| attempts + 1);
            let event = json!({ "name": name(), "channel": "a", "data": "x" });
            let event = &event;
            let requests = callers.iter().map(async |caller| {
                let mut answers = Vec::new();
                for _ in 0..6 {
                    answers.push(caller.post_events(event.clone()).await);
                }
                answers
            });
            let answers: Vec<Answer> = join_all(requests).await.into_iter().flatten().collect();
            // How often each remaining count was returned: once per window that reached it.
            let mut left = BTreeMap::<u64, usize>::new();
            for answer in answers.iter().filter(|answer| answer.status == 200) {
                *left.entry(remaining(answer, LIMIT)).or_default() += 1;
            }
            for refused in answers.iter().filter(|answer| answer.status != 200) {
                assert_eq!(expect_limited(refused, LIMIT), 0);
            }
            let admitted = left.values().sum::<usize>();
            (left[&(LIMIT - 1)] == 1).then_some((admitted, left))
        };
        let (admitted, left) = in_one_window(&callers[0], LIMIT, attempt).await;
        assert_eq!(admitted as u64, LIMIT);
        assert!(left.len() as u64 == LIMIT && left.values().all(|times| *times == 1), "{left:?}");
        // Exactly the admitted events of that attempt have arrived.
        fresh_window(&callers[0], LIMIT).await;
        callers[0].publish("a", "end", "").await;
        let mut arrived = Vec::new();
        while arrived.last().is_none_or(|event| event != "end") {
            arrived.push(browser.next().await.event);
        }
        assert_eq!(arrived.iter().filter(|event| **event == name()).count(), admitted);
    })
    .await;
}

#[tokio::test]
async fn rate_limit_headers_are_absent_without_a_limit() {
    let server =
        Server::builder().app(AppSpec::new("5").set("max_read_requests_per_second", 9)).start().await;
    let caller = server.caller("1");
    for answer in [
        caller.post_events(event(&["a"])).await,
        caller.post_events(json!({})).await,
        caller.post_batch(json!([event(&["a"])])).await,
        caller.get("/channels", &[]).await,
        caller.request("POST", "/users/1/terminate_connections").send().await,
        // App 5 has a limit on queries only.
        server.caller("5").post_events(event(&["a"])).await,
    ] {
        for header in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"] {
            assert_eq!(answer.header(header), None, "{header} with {}", answer.text());
        }
    }
}

/// While Redis is unavailable, requests fail with the errors of Redis and not with errors
/// of the rate limit.
#[tokio::test]
async fn rate_limit_is_not_enforced_while_redis_is_unavailable() {
    bounded(async {
        let spec = app("max_backend_events_per_second", 5).set("max_read_requests_per_second", 5);
        let mut cluster = Cluster::builder(Backend::Redis).nodes(1).app(spec).start().await;
        let caller = cluster.caller("1");
        caller.post_events(event(&["a"])).await.expect_ok();
        cluster.redis_mut().kill();
        for _ in 0..10 {
            for answer in [
                caller.get("/channels", &[]).await,
                caller.get("/channels/news", &[]).await,
                caller.post_events(event(&["a"])).await,
                caller.request("POST", "/users/1/terminate_connections").send().await,
            ] {
                let refusal = answer.expect_refused(503);
                assert_ne!(refusal.0["code"], "internal_error", "{}", refusal.0);
                assert_eq!(answer.header("x-ratelimit-limit"), None);
            }
            // Requests that need no Redis receive the usual response.
            let invalid = caller.get("/channels/news", &[("info", "weather")]).await;
            invalid.expect_error(400, "invalid_input").of_field("info");
            caller.post_events(json!({})).await.expect_error(400, "invalid_input");
        }
        assert!(cluster.metric("fanfare_rate_limits_unenforced_total").await[0] >= 10.0);
    })
    .await;
}
