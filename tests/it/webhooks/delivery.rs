//! Webhooks (protocol.md 5): the delivered events, and delivery while receivers are down,
//! hang or send invalid responses, and while nodes or Redis fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::app::Secret;
use fanfare::auth;
use serde_json::{Value, json};

use crate::support::receiver::Call;
use crate::support::{
    AppSpec, Backend, Browser, Cluster, Links, Receiver, Reply, STEP_TIMEOUT, Server, Signal, bounded,
    eventually, on_both_backends,
};

on_both_backends!(
    webhook_client_events_are_delivered_in_order_and_signed,
    webhook_receiver_that_was_down_receives_every_event,
    webhook_event_has_the_same_id_at_every_attempt,
    webhook_call_that_hangs_blocks_only_its_channel,
    webhook_endpoint_that_hangs_blocks_no_other_endpoint,
    webhook_call_without_2xx_response_is_retried,
    webhook_custom_headers_do_not_replace_standard_headers,
    webhook_endpoint_receives_only_its_event_types_and_channels,
    webhook_events_are_delivered_before_shutdown,
    webhook_channel_occupied_and_vacated_are_sent_once,
    webhook_member_events_are_sent_once_per_user,
    webhook_page_reload_within_grace_sends_no_event,
    webhook_cache_miss_is_sent,
    webhook_subscription_counts_are_sent,
);

/// App 1 with these webhooks, each as an inline table of TOML.
fn app(webhooks: &[String]) -> AppSpec {
    AppSpec::new("1")
        .set("enable_client_messages", true)
        .set("max_client_events_per_second", 1_000)
        .set("enable_subscription_count", true)
        .set("webhooks", format!("[{}]", webhooks.join(", ")))
}

/// A webhook that sends these event types to the receiver; `more` is appended to the TOML
/// table.
fn webhook(receiver: &Receiver, events: &[&str], more: &str) -> String {
    format!("{{ url = \"{}\", event_types = {} {more} }}", receiver.url(), json!(events))
}

fn client_events(receiver: &Receiver) -> String {
    webhook(receiver, &["client_event"], "")
}

async fn start(backend: Backend, webhooks: &[String]) -> Cluster {
    Cluster::builder(backend).app(app(webhooks)).start().await
}

async fn subscriber_of(server: &Server, channels: &[&str]) -> Browser {
    let mut browser = server.browser("key1").await;
    for channel in channels {
        browser.subscribe(channel).await;
    }
    browser
}

async fn send(browser: &mut Browser, channel: &str, data: impl std::fmt::Display) {
    let event = json!({ "event": "client-text", "channel": channel, "data": data.to_string() });
    browser.send(event).await;
}

/// Joins a presence channel as this user.
async fn join(browser: &mut Browser, app: &AppSpec, channel: &str, user: &str) {
    let channel_data = json!({ "user_id": user }).to_string();
    let text = auth::subscription_text(browser.socket_id(), channel, Some(&channel_data));
    let signature = auth::sign(&Secret::new(app.secret.as_str()), &text);
    let auth = format!("{}:{signature}", app.key);
    let data = json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
    browser.subscribe_raw(data).await;
    browser.confirmed(channel).await;
}

/// `data` of the client events of a channel, in order of arrival.
fn data_of(events: &[Value], channel: &str) -> Vec<String> {
    let of_channel = events.iter().filter(|event| event["channel"] == channel);
    of_channel.map(|event| event["data"].as_str().expect("data is a string").to_owned()).collect()
}

/// The events without repeated deliveries, which have the id of the first one.
fn once_each(events: &[Value]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut is_new = |event: &&Value| seen.insert(event["id"].as_str().expect("an id").to_owned());
    events.iter().filter(|event| is_new(event)).cloned().collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Names of events, without the channels.
fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["name"].as_str().expect("a name")).collect()
}

fn attempts(calls: &[Call], channel: &str) -> usize {
    calls.iter().filter(|call| call.names(channel)).count()
}

async fn webhook_client_events_are_delivered_in_order_and_signed(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut sender = subscriber_of(cluster.first(), &["private-a", "private-b"]).await;
    for n in 0..20 {
        send(&mut sender, if n % 2 == 0 { "private-a" } else { "private-b" }, format!("{{\"ü\\n\":{n}}}"))
            .await;
    }
    let events = receiver.until_accepted(20).await;
    let even: Vec<String> = (0..20).step_by(2).map(|n| format!("{{\"ü\\n\":{n}}}")).collect();
    assert_eq!(data_of(&events, "private-a"), even);
    assert_eq!(data_of(&events, "private-b").len(), 10);
    assert_eq!(once_each(&events).len(), 20, "an id is repeated");
    // There is no order between channels.
    let mut first = events.iter().find(|event| event["channel"] == "private-a").expect("one of ten").clone();
    let (id, time_ms) = (first["id"].take(), first["time_ms"].take());
    assert!(id.is_string() && time_ms.is_u64(), "{events:?}");
    let expected = json!({
        "name": "client_event", "channel": "private-a", "event": "client-text",
        "data": even[0], "socket_id": sender.socket_id(), "id": null, "time_ms": null,
    });
    assert_eq!(first, expected);
    for call in receiver.calls() {
        call.expect_signed(cluster.first().app("1"));
        assert_eq!(call.request, "POST /hook HTTP/1.1");
        assert_eq!(call.header("content-type"), ["application/json"]);
        assert!(call.header("user-agent")[0].starts_with("fanfare/"), "{:?}", call.headers);
        assert!(call.json()["time_ms"].is_u64(), "{}", call.json());
    }
}

async fn webhook_receiver_that_was_down_receives_every_event(backend: Backend) {
    let mut receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut sender = subscriber_of(cluster.first(), &["private-a", "private-b"]).await;
    receiver.down().await;
    for n in 0..10 {
        send(&mut sender, "private-a", n).await;
        send(&mut sender, "private-b", n).await;
    }
    eventually("three failed calls", STEP_TIMEOUT, async || {
        let mut failed = 0.0;
        for node in &cluster.nodes {
            failed += node.metrics().await.sum("fanfare_webhook_calls_failed_total");
        }
        if failed >= 3.0 { Ok(()) } else { Err(failed.to_string()) }
    })
    .await;
    receiver.up().await;
    let events = receiver.until_accepted(20).await;
    for channel in ["private-a", "private-b"] {
        assert_eq!(data_of(&events, channel), numbers(0..10), "{channel}");
    }
    let log: String = cluster.nodes.iter().map(Server::log).collect();
    assert!(log.contains("webhook fails") && !log.contains(&receiver.url()), "{log}");
}

async fn webhook_event_has_the_same_id_at_every_attempt(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut sender = subscriber_of(cluster.first(), &["private-a"]).await;
    receiver.answer(|_| Reply::Status(500));
    send(&mut sender, "private-a", "x").await;
    let calls = receiver.until("three attempts", |calls| calls.len() >= 3).await;
    receiver.answer(|_| Reply::Status(204));
    let events = receiver.until_accepted(1).await;
    for call in &calls {
        assert_eq!(call.events(), events, "an attempt differs from the first one");
        call.expect_signed(cluster.first().app("1"));
    }
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        pauses[0] >= Duration::from_millis(900) && pauses[1] >= Duration::from_millis(1_800),
        "{pauses:?}"
    );
}

async fn webhook_call_that_hangs_blocks_only_its_channel(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut sender = subscriber_of(cluster.first(), &["private-slow", "private-fast"]).await;
    receiver.answer(|call| if call.names("private-slow") { Reply::Hang } else { Reply::Status(200) });
    send(&mut sender, "private-slow", 0).await;
    receiver.until("the call that hangs", |calls| attempts(calls, "private-slow") == 1).await;
    for n in 0..5 {
        send(&mut sender, "private-fast", n).await;
        send(&mut sender, "private-slow", n + 1).await;
    }
    let events = receiver.until_accepted(5).await;
    assert_eq!(data_of(&events, "private-fast"), numbers(0..5));
    assert_eq!(attempts(&receiver.calls(), "private-slow"), 1, "calls in flight for the channel");
    receiver.answer(|_| Reply::Status(200));
    let events = receiver.until_accepted(11).await;
    assert_eq!(data_of(&events, "private-slow"), numbers(0..6));
}

async fn webhook_endpoint_that_hangs_blocks_no_other_endpoint(backend: Backend) {
    let (hanging, other) = (Receiver::start().await, Receiver::start().await);
    let cluster = start(backend, &[client_events(&hanging), client_events(&other)]).await;
    let channels: Vec<String> = (0..40).map(|n| format!("private-{n}")).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut sender = subscriber_of(cluster.first(), &channels).await;
    hanging.answer(|_| Reply::Hang);
    for round in 1..=3 {
        for channel in &channels {
            send(&mut sender, channel, round).await;
        }
        // The second and third rounds wait behind the hanging calls of one endpoint only.
        other.until_accepted(round * channels.len()).await;
    }
    let events = other.events();
    for channel in &channels {
        assert_eq!(data_of(&events, channel), numbers(1..4), "{channel}");
    }
    let calls = hanging.calls();
    assert!(!calls.is_empty());
    for channel in &channels {
        // 0 where the endpoint already had its maximum of calls in flight.
        assert!(attempts(&calls, channel) <= 1, "{channel}");
    }
}

async fn webhook_call_without_2xx_response_is_retried(backend: Backend) {
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let replies = [
        Reply::Redirect(other.url()),
        Reply::Raw(b"\x00\xff this is not HTTP at all\r\n\r\n"),
        Reply::Raw(b"HTTP/1.1 200"),
        Reply::Status(404),
        Reply::Raw(b""),
        Reply::Raw(b"HTTP/1.1 2000 OK\r\n\r\n"),
    ];
    let channels: Vec<String> = (0..replies.len()).map(|n| format!("private-{n}")).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut sender = subscriber_of(cluster.first(), &channels).await;
    let (count, refused) = (replies.len(), parking_lot::Mutex::new(BTreeSet::new()));
    // The first call that contains only one channel receives that channel's invalid
    // response. A call for several channels receives 503.
    receiver.answer(move |call| {
        let events = call.events();
        let channels: BTreeSet<&str> =
            events.iter().map(|event| event["channel"].as_str().unwrap()).collect();
        let [channel] = channels.iter().copied().collect::<Vec<_>>()[..] else { return Reply::Status(503) };
        let nth: usize = channel.trim_start_matches("private-").parse().unwrap();
        match refused.lock().insert(nth) {
            true => replies[nth].clone(),
            false => Reply::Status(200),
        }
    });
    for channel in &channels {
        send(&mut sender, channel, "x").await;
    }
    let events = receiver.until_accepted(count).await;
    for channel in &channels {
        assert_eq!(data_of(&events, channel), ["x"], "{channel}");
        assert!(attempts(&receiver.calls(), channel) >= 2, "{channel}");
    }
    assert_eq!(other.calls().len(), 0, "a redirect was followed");
}

async fn webhook_custom_headers_do_not_replace_standard_headers(backend: Backend) {
    let receiver = Receiver::start().await;
    let headers = "{ X-Custom = 'yes', CONTENT-TYPE = 'text/plain', Host = 'other', content-length = '3', \
                   Transfer-Encoding = 'chunked' }";
    let more = format!(", headers = {headers}");
    let cluster = start(backend, &[webhook(&receiver, &["client_event"], &more)]).await;
    let mut sender = subscriber_of(cluster.first(), &["private-a"]).await;
    send(&mut sender, "private-a", "x").await;
    receiver.until_accepted(1).await;
    let call = &receiver.calls()[0];
    call.expect_signed(cluster.first().app("1"));
    assert_eq!(call.header("x-custom"), ["yes"]);
    assert_eq!(call.header("content-type"), ["application/json"]);
    assert_eq!(call.header("content-length"), [call.body.len().to_string()]);
    assert_eq!(call.header("transfer-encoding"), [""; 0]);
    assert!(receiver.url().contains(call.header("host")[0]), "{:?}", call.headers);
}

async fn webhook_endpoint_receives_only_its_event_types_and_channels(backend: Backend) {
    let (filtered, twice) = (Receiver::start().await, Receiver::start().await);
    let filter = ", filter = { channel_prefix = 'private-a', channel_suffix = 'z' }";
    let webhooks = [
        webhook(&filtered, &["client_event"], filter),
        client_events(&twice),
        client_events(&twice),
        webhook(&filtered, &["member_added"], ""),
    ];
    let cluster = start(backend, &webhooks).await;
    let channels = ["private-ab", "private-az", "private-bz"];
    let mut sender = subscriber_of(cluster.first(), &channels).await;
    for channel in channels {
        send(&mut sender, channel, channel).await;
    }
    let events = twice.until_accepted(6).await;
    for channel in channels {
        assert_eq!(
            data_of(&events, channel),
            [channel; 2],
            "each of two webhooks with one URL delivers the event"
        );
    }
    assert_eq!(once_each(&events).len(), 3);
    filtered.until_accepted(1).await;
    send(&mut sender, "private-az", "last").await;
    assert_eq!(data_of(&filtered.until_accepted(2).await, "private-az"), ["private-az", "last"]);
    assert_eq!(filtered.events().len(), 2, "{:?}", filtered.events());
}

async fn webhook_events_are_delivered_before_shutdown(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = Cluster::builder(backend).nodes(1).app(app(&[client_events(&receiver)]));
    let mut cluster = cluster.config("drain_delay = 0\ndrain_window = 0").start().await;
    let mut sender = subscriber_of(cluster.first(), &["private-a"]).await;
    for n in 0..10 {
        send(&mut sender, "private-a", n).await;
    }
    // The server has processed all client events of the socket.
    sender.settle().await;
    cluster.first().signal(Signal::Terminate);
    assert!(cluster.nodes[0].wait_exit(3 * STEP_TIMEOUT).await.success());
    assert_eq!(data_of(&receiver.events(), "private-a"), numbers(0..10));
}

async fn webhook_channel_occupied_and_vacated_are_sent_once(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[webhook(&receiver, &["channel_occupied", "channel_vacated"], "")]).await;
    let first = subscriber_of(cluster.first(), &["news"]).await;
    let second = subscriber_of(cluster.second(), &["news"]).await;
    assert_eq!(names(&receiver.until_accepted(1).await), ["channel_occupied"]);
    first.close().await;
    second.close().await;
    let events = receiver.until_accepted(2).await;
    assert_eq!(names(&events), ["channel_occupied", "channel_vacated"]);
    assert!(events.iter().all(|event| event["channel"] == "news"));
    let first = subscriber_of(cluster.second(), &["news"]).await;
    assert_eq!(names(&receiver.until_accepted(3).await)[2..], ["channel_occupied"]);
    first.close().await;
    assert_eq!(names(&receiver.until_accepted(4).await)[3..], ["channel_vacated"]);
}

async fn webhook_member_events_are_sent_once_per_user(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[webhook(&receiver, &["member_added", "member_removed"], "")]).await;
    let app = cluster.first().app("1").clone();
    let (mut ann, mut tab) = (cluster.first().browser("key1").await, cluster.second().browser("key1").await);
    let mut bob = cluster.second().browser("key1").await;
    join(&mut ann, &app, "presence-a", "ann").await;
    join(&mut tab, &app, "presence-a", "ann").await;
    join(&mut bob, &app, "presence-a", "bob").await;
    let events = receiver.until_accepted(2).await;
    let fields = |event: &Value| (event["name"].clone(), event["channel"].clone(), event["user_id"].clone());
    let expect = |name: &str, user: &str| (json!(name), json!("presence-a"), json!(user));
    let all: Vec<_> = events.iter().map(fields).collect();
    assert_eq!(all, [expect("member_added", "ann"), expect("member_added", "bob")]);
    ann.close().await;
    bob.close().await;
    let events = receiver.until_accepted(3).await;
    assert_eq!(fields(&events[2]), expect("member_removed", "bob"), "ann has another tab");
    tab.close().await;
    let events = receiver.until_accepted(4).await;
    assert_eq!(fields(&events[3]), expect("member_removed", "ann"));
}

/// A user that rejoins within the grace period of 3 s causes no events.
async fn webhook_page_reload_within_grace_sends_no_event(backend: Backend) {
    let receiver = Receiver::start().await;
    let types = ["channel_occupied", "channel_vacated", "member_added", "member_removed"];
    let cluster = start(backend, &[webhook(&receiver, &types, "")]).await;
    let app = cluster.first().app("1").clone();
    for node in [cluster.first(), cluster.second(), cluster.first()] {
        let mut ann = node.browser("key1").await;
        join(&mut ann, &app, "presence-a", "ann").await;
        receiver.until_accepted(2).await;
        ann.close().await;
        cluster.caller("1").count_becomes("presence-a", 0).await;
    }
    let events = receiver.until_accepted(4).await;
    let mut names = names(&events);
    names[..2].sort_unstable();
    names[2..].sort_unstable();
    assert_eq!(names, ["channel_occupied", "member_added", "channel_vacated", "member_removed"]);
    let time = |event: &Value| event["time_ms"].as_u64().expect("a time");
    assert!(
        time(&events[2]) - time(&events[0]) >= 3_000,
        "sent before the grace period has passed: {events:?}"
    );
}

async fn webhook_cache_miss_is_sent(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[webhook(&receiver, &["cache_miss"], "")]).await;
    let _ann = subscriber_of(cluster.first(), &["cache-empty"]).await;
    let events = receiver.until_accepted(1).await;
    assert_eq!((&events[0]["channel"], &events[0]["data"]), (&json!("cache-empty"), &json!("{}")));
    cluster.caller("1").publish("cache-full", "x", "1").await;
    let _bob = subscriber_of(cluster.second(), &["cache-full", "cache-last"]).await;
    let events = receiver.until_accepted(2).await;
    assert_eq!(events[1]["channel"], "cache-last", "a cache channel with an event has no cache miss");
}

async fn webhook_subscription_counts_are_sent(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[webhook(&receiver, &["subscription_count"], "")]).await;
    let mut browsers = Vec::new();
    for count in 1..=3 {
        let node = if count % 2 == 0 { cluster.first() } else { cluster.second() };
        browsers.push(subscriber_of(node, &["news"]).await);
        let events = receiver.until_accepted(count).await;
        assert_eq!(events[count - 1]["subscription_count"], count, "{events:?}");
        assert_eq!(events[count - 1]["channel"], "news");
    }
}

/// While the receiver is down, the node that reads the webhook outbox is killed. Another node
/// delivers the events.
#[tokio::test]
async fn cluster_webhooks_of_a_killed_node_are_delivered_by_another() {
    bounded(async {
        const CHANNELS: usize = 40;
        const ROUNDS: usize = 5;
        let mut receiver = Receiver::start().await;
        let cluster = Cluster::builder(Backend::Redis).nodes(3).app(app(&[client_events(&receiver)]));
        let mut cluster = cluster.start().await;
        let channels: Vec<String> = (0..CHANNELS).map(|n| format!("private-{n}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut sender = subscriber_of(&cluster.nodes[1], &channels).await;
        let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for round in 0..ROUNDS {
            for channel in &channels {
                send(&mut sender, channel, round).await;
                sent.entry(channel).or_default().push(round.to_string());
            }
            match round {
                0 => drop(receiver.until_accepted(CHANNELS).await),
                1 => receiver.down().await,
                2 => cluster.nodes[0].kill9(),
                _ => {}
            }
        }
        sender.settle().await;
        receiver.up().await;
        let everything = |calls: &[Call]| {
            let taken: Vec<Value> =
                calls.iter().filter(|call| call.is_accepted()).flat_map(Call::events).collect();
            once_each(&taken).len() == CHANNELS * ROUNDS
        };
        let calls = receiver.until("every event", everything).await;
        let taken: Vec<Value> =
            calls.iter().filter(|call| call.is_accepted()).flat_map(Call::events).collect();
        for (channel, sent) in sent {
            assert_eq!(data_of(&once_each(&taken), channel), sent, "{channel}");
        }
        for call in &calls {
            call.expect_signed(cluster.nodes[1].app("1"));
        }
    })
    .await;
}

/// An event that was delivered but not removed from the outbox may be delivered again. No
/// event is lost.
#[tokio::test]
async fn cluster_webhooks_are_delivered_after_redis_was_unavailable() {
    bounded(async {
        let mut receiver = Receiver::start().await;
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0);
        let cluster = cluster.app(app(&[client_events(&receiver)])).start().await;
        let (node, proxy) = (cluster.first(), cluster.proxy());
        let channels: Vec<String> = (0..20).map(|n| format!("private-{n}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut sender = subscriber_of(node, &channels).await;
        receiver.down().await;
        for round in 0..3 {
            for channel in &channels {
                send(&mut sender, channel, round).await;
            }
        }
        sender.settle().await;
        eventually("all events are in flight", STEP_TIMEOUT, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 60.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
        proxy.cut(Links::All);
        eventually("all in-flight events are dropped", STEP_TIMEOUT, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 0.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
        receiver.up().await;
        proxy.heal();
        let events = receiver.until_accepted(60).await;
        for channel in channels {
            assert_eq!(data_of(&once_each(&events), channel), numbers(0..3), "{channel}");
        }
        eventually("the outboxes are empty", STEP_TIMEOUT, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 0.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
    })
    .await;
}
