//! Webhooks (protocol.md 5): what a receiver is told, and what it takes to keep it
//! from being told: down, hanging, answering garbage, nodes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::app::Secret;
use fanfare::auth;
use serde_json::{Value, json};

use crate::support::receiver::Call;
use crate::support::server::Builder;
use crate::support::{
    AppSpec, Backend, Browser, Cluster, Links, PATIENCE, Proxy, Receiver, Redis, Reply, Server, Signal,
    bounded, eventually, on_both_backends,
};

on_both_backends!(
    client_events_are_delivered_in_order_and_signed,
    a_receiver_that_was_down_gets_everything,
    an_event_has_the_same_id_at_every_attempt,
    a_channel_that_hangs_holds_up_no_other,
    a_webhook_that_hangs_holds_up_no_other,
    whatever_is_not_2xx_is_tried_again,
    custom_headers_replace_nothing,
    each_webhook_gets_what_it_asked_for,
    an_orderly_stop_delivers_what_is_there,
    a_channel_is_occupied_once_and_vacated_once,
    members_are_added_and_removed_once_per_user,
    a_page_refresh_is_not_told,
    a_cache_miss_is_told,
    subscription_counts_are_told,
);

/// App 1 with these webhooks, each an inline table of TOML.
fn app(webhooks: &[String]) -> AppSpec {
    AppSpec::new("1")
        .set("enable_client_messages", true)
        .set("max_client_events_per_second", 1_000)
        .set("enable_subscription_count", true)
        .set("webhooks", format!("[{}]", webhooks.join(", ")))
}

/// Calls the receiver for these events; `more` is further TOML.
fn hook(receiver: &Receiver, events: &[&str], more: &str) -> String {
    format!("{{ url = \"{}\", event_types = {} {more} }}", receiver.url(), json!(events))
}

fn client_events(receiver: &Receiver) -> String {
    hook(receiver, &["client_event"], "")
}

async fn start(backend: Backend, webhooks: &[String]) -> Cluster {
    Cluster::builder(backend).app(app(webhooks)).start().await
}

async fn member_of(server: &Server, channels: &[&str]) -> Browser {
    let mut browser = server.browser("key1").await;
    for channel in channels {
        browser.subscribe(channel).await;
    }
    browser
}

async fn say(browser: &mut Browser, channel: &str, data: impl std::fmt::Display) {
    let event = json!({ "event": "client-said", "channel": channel, "data": data.to_string() });
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

/// `data` of the client events of a channel, in the order in which they came.
fn said(events: &[Value], channel: &str) -> Vec<String> {
    let of_channel = events.iter().filter(|event| event["channel"] == channel);
    of_channel.map(|event| event["data"].as_str().expect("data is a string").to_owned()).collect()
}

/// The same without what was delivered again: receivers tell it by its id.
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

async fn client_events_are_delivered_in_order_and_signed(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut ann = member_of(cluster.first(), &["private-a", "private-b"]).await;
    for n in 0..20 {
        say(&mut ann, if n % 2 == 0 { "private-a" } else { "private-b" }, format!("{{\"ü\\n\":{n}}}")).await;
    }
    let events = receiver.until_taken(20).await;
    let even: Vec<String> = (0..20).step_by(2).map(|n| format!("{{\"ü\\n\":{n}}}")).collect();
    assert_eq!(said(&events, "private-a"), even);
    assert_eq!(said(&events, "private-b").len(), 10);
    assert_eq!(once_each(&events).len(), 20, "ids are distinct");
    // Between channels there is no order.
    let mut first = events.iter().find(|event| event["channel"] == "private-a").expect("one of ten").clone();
    let (id, time_ms) = (first["id"].take(), first["time_ms"].take());
    assert!(id.is_string() && time_ms.is_u64(), "{events:?}");
    let expected = json!({
        "name": "client_event", "channel": "private-a", "event": "client-said",
        "data": even[0], "socket_id": ann.socket_id(), "id": null, "time_ms": null,
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

async fn a_receiver_that_was_down_gets_everything(backend: Backend) {
    let mut receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut ann = member_of(cluster.first(), &["private-a", "private-b"]).await;
    receiver.down().await;
    for n in 0..10 {
        say(&mut ann, "private-a", n).await;
        say(&mut ann, "private-b", n).await;
    }
    eventually("three failed calls", PATIENCE, async || {
        let mut failed = 0.0;
        for node in cluster.nodes() {
            failed += node.metrics().await.sum("fanfare_webhook_calls_failed_total");
        }
        if failed >= 3.0 { Ok(()) } else { Err(failed.to_string()) }
    })
    .await;
    receiver.up().await;
    let events = receiver.until_taken(20).await;
    for channel in ["private-a", "private-b"] {
        assert_eq!(said(&events, channel), numbers(0..10), "{channel}");
    }
    let log: String = cluster.nodes().iter().map(Server::log).collect();
    assert!(log.contains("webhook fails") && !log.contains(&receiver.url()), "{log}");
}

async fn an_event_has_the_same_id_at_every_attempt(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut ann = member_of(cluster.first(), &["private-a"]).await;
    receiver.answer(|_| Reply::Status(500));
    say(&mut ann, "private-a", "x").await;
    let calls = receiver.until("three attempts", |calls| calls.len() >= 3).await;
    receiver.answer(|_| Reply::Status(204));
    let events = receiver.until_taken(1).await;
    for call in &calls {
        assert_eq!(call.events(), events, "the event is the same, byte for byte");
        call.expect_signed(cluster.first().app("1"));
    }
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        pauses[0] >= Duration::from_millis(900) && pauses[1] >= Duration::from_millis(1_800),
        "{pauses:?}"
    );
}

async fn a_channel_that_hangs_holds_up_no_other(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let mut ann = member_of(cluster.first(), &["private-slow", "private-fast"]).await;
    receiver.answer(|call| if call.names("private-slow") { Reply::Hang } else { Reply::Status(200) });
    say(&mut ann, "private-slow", 0).await;
    receiver.until("the call that hangs", |calls| attempts(calls, "private-slow") == 1).await;
    for n in 0..5 {
        say(&mut ann, "private-fast", n).await;
        say(&mut ann, "private-slow", n + 1).await;
    }
    let events = receiver.until_taken(5).await;
    assert_eq!(said(&events, "private-fast"), numbers(0..5));
    assert_eq!(attempts(&receiver.calls(), "private-slow"), 1, "one call under way per channel");
    receiver.answer(|_| Reply::Status(200));
    let events = receiver.until_taken(11).await;
    assert_eq!(said(&events, "private-slow"), numbers(0..6));
}

async fn a_webhook_that_hangs_holds_up_no_other(backend: Backend) {
    let (hanging, other) = (Receiver::start().await, Receiver::start().await);
    let cluster = start(backend, &[client_events(&hanging), client_events(&other)]).await;
    let channels: Vec<String> = (0..40).map(|n| format!("private-{n}")).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut ann = member_of(cluster.first(), &channels).await;
    hanging.answer(|_| Reply::Hang);
    for round in 1..=3 {
        for channel in &channels {
            say(&mut ann, channel, round).await;
        }
        // The second and third wait, for one receiver, behind what hangs there.
        other.until_taken(round * channels.len()).await;
    }
    let events = other.events();
    for channel in &channels {
        assert_eq!(said(&events, channel), numbers(1..4), "{channel}");
    }
    let calls = hanging.calls();
    assert!(!calls.is_empty());
    for channel in &channels {
        // None, where its webhook has all the calls under way that it may have.
        assert!(attempts(&calls, channel) <= 1, "{channel}");
    }
}

async fn whatever_is_not_2xx_is_tried_again(backend: Backend) {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let cluster = start(backend, &[client_events(&receiver)]).await;
    let replies = [
        Reply::Redirect(elsewhere.url()),
        Reply::Raw(b"\x00\xff this is not HTTP at all\r\n\r\n"),
        Reply::Raw(b"HTTP/1.1 200"),
        Reply::Status(404),
        Reply::Raw(b""),
        Reply::Raw(b"HTTP/1.1 2000 OK\r\n\r\n"),
    ];
    let channels: Vec<String> = (0..replies.len()).map(|n| format!("private-{n}")).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut ann = member_of(cluster.first(), &channels).await;
    let (count, once) = (replies.len(), parking_lot::Mutex::new(BTreeSet::new()));
    // Each channel is refused in its own way, the first time that it is alone.
    receiver.answer(move |call| {
        let events = call.events();
        let channels: BTreeSet<&str> =
            events.iter().map(|event| event["channel"].as_str().unwrap()).collect();
        let [channel] = channels.iter().copied().collect::<Vec<_>>()[..] else { return Reply::Status(503) };
        let nth: usize = channel.trim_start_matches("private-").parse().unwrap();
        match once.lock().insert(nth) {
            true => replies[nth].clone(),
            false => Reply::Status(200),
        }
    });
    for channel in &channels {
        say(&mut ann, channel, "x").await;
    }
    let events = receiver.until_taken(count).await;
    for channel in &channels {
        assert_eq!(said(&events, channel), ["x"], "{channel}");
        assert!(attempts(&receiver.calls(), channel) >= 2, "{channel}");
    }
    assert_eq!(elsewhere.calls().len(), 0, "redirects are not followed");
}

async fn custom_headers_replace_nothing(backend: Backend) {
    let receiver = Receiver::start().await;
    let headers = "{ X-Custom = 'yes', CONTENT-TYPE = 'text/plain', Host = 'elsewhere', content-length = '3', \
                   Transfer-Encoding = 'chunked' }";
    let more = format!(", headers = {headers}");
    let cluster = start(backend, &[hook(&receiver, &["client_event"], &more)]).await;
    let mut ann = member_of(cluster.first(), &["private-a"]).await;
    say(&mut ann, "private-a", "x").await;
    receiver.until_taken(1).await;
    let call = &receiver.calls()[0];
    call.expect_signed(cluster.first().app("1"));
    assert_eq!(call.header("x-custom"), ["yes"]);
    assert_eq!(call.header("content-type"), ["application/json"]);
    assert_eq!(call.header("content-length"), [call.body.len().to_string()]);
    assert_eq!(call.header("transfer-encoding"), [""; 0]);
    assert!(receiver.url().contains(call.header("host")[0]), "{:?}", call.headers);
}

async fn each_webhook_gets_what_it_asked_for(backend: Backend) {
    let (filtered, twice) = (Receiver::start().await, Receiver::start().await);
    let filter = ", filter = { channel_prefix = 'private-a', channel_suffix = 'z' }";
    let webhooks = [
        hook(&filtered, &["client_event"], filter),
        client_events(&twice),
        client_events(&twice),
        hook(&filtered, &["member_added"], ""),
    ];
    let cluster = start(backend, &webhooks).await;
    let channels = ["private-ab", "private-az", "private-bz"];
    let mut ann = member_of(cluster.first(), &channels).await;
    for channel in channels {
        say(&mut ann, channel, channel).await;
    }
    let events = twice.until_taken(6).await;
    for channel in channels {
        assert_eq!(said(&events, channel), [channel; 2], "two webhooks with one URL are two");
    }
    assert_eq!(once_each(&events).len(), 3);
    filtered.until_taken(1).await;
    say(&mut ann, "private-az", "last").await;
    assert_eq!(said(&filtered.until_taken(2).await, "private-az"), ["private-az", "last"]);
    assert_eq!(filtered.events().len(), 2, "{:?}", filtered.events());
}

async fn an_orderly_stop_delivers_what_is_there(backend: Backend) {
    let receiver = Receiver::start().await;
    let node = Server::builder().app(app(&[client_events(&receiver)]));
    let node = node.config("drain_delay = 0\ndrain_window = 0");
    let redis = match backend {
        Backend::Memory => None,
        Backend::Redis => Some(Redis::start().await),
    };
    let node = redis.iter().fold(node, Builder::redis);
    let mut server = node.start().await;
    let mut ann = member_of(&server, &["private-a"]).await;
    for n in 0..10 {
        say(&mut ann, "private-a", n).await;
    }
    // WebhookEventKind the socket has said before has been heard.
    ann.settle().await;
    server.signal(Signal::Terminate);
    assert!(server.wait_exit(3 * PATIENCE).await.success());
    assert_eq!(said(&receiver.events(), "private-a"), numbers(0..10));
}

async fn a_channel_is_occupied_once_and_vacated_once(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[hook(&receiver, &["channel_occupied", "channel_vacated"], "")]).await;
    let ann = member_of(cluster.first(), &["news"]).await;
    let bob = member_of(cluster.second(), &["news"]).await;
    assert_eq!(names(&receiver.until_taken(1).await), ["channel_occupied"]);
    ann.close().await;
    bob.close().await;
    let events = receiver.until_taken(2).await;
    assert_eq!(names(&events), ["channel_occupied", "channel_vacated"]);
    assert!(events.iter().all(|event| event["channel"] == "news"));
    let ann = member_of(cluster.second(), &["news"]).await;
    assert_eq!(names(&receiver.until_taken(3).await)[2..], ["channel_occupied"]);
    ann.close().await;
    assert_eq!(names(&receiver.until_taken(4).await)[3..], ["channel_vacated"]);
}

async fn members_are_added_and_removed_once_per_user(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[hook(&receiver, &["member_added", "member_removed"], "")]).await;
    let app = cluster.first().app("1").clone();
    let (mut ann, mut tab) = (cluster.first().browser("key1").await, cluster.second().browser("key1").await);
    let mut bob = cluster.second().browser("key1").await;
    join(&mut ann, &app, "presence-a", "ann").await;
    join(&mut tab, &app, "presence-a", "ann").await;
    join(&mut bob, &app, "presence-a", "bob").await;
    let events = receiver.until_taken(2).await;
    let told = |event: &Value| (event["name"].clone(), event["channel"].clone(), event["user_id"].clone());
    let expect = |name: &str, user: &str| (json!(name), json!("presence-a"), json!(user));
    let all: Vec<_> = events.iter().map(told).collect();
    assert_eq!(all, [expect("member_added", "ann"), expect("member_added", "bob")]);
    ann.close().await;
    bob.close().await;
    let events = receiver.until_taken(3).await;
    assert_eq!(told(&events[2]), expect("member_removed", "bob"), "ann has another tab");
    tab.close().await;
    let events = receiver.until_taken(4).await;
    assert_eq!(told(&events[3]), expect("member_removed", "ann"));
}

/// Who comes back within three seconds was never away.
async fn a_page_refresh_is_not_told(backend: Backend) {
    let receiver = Receiver::start().await;
    let types = ["channel_occupied", "channel_vacated", "member_added", "member_removed"];
    let cluster = start(backend, &[hook(&receiver, &types, "")]).await;
    let app = cluster.first().app("1").clone();
    for node in [cluster.first(), cluster.second(), cluster.first()] {
        let mut ann = node.browser("key1").await;
        join(&mut ann, &app, "presence-a", "ann").await;
        receiver.until_taken(2).await;
        ann.close().await;
        cluster.caller("1").count_becomes("presence-a", 0).await;
    }
    let events = receiver.until_taken(4).await;
    let mut told = names(&events);
    told[..2].sort_unstable();
    told[2..].sort_unstable();
    assert_eq!(told, ["channel_occupied", "member_added", "channel_vacated", "member_removed"]);
    let time = |event: &Value| event["time_ms"].as_u64().expect("a time");
    assert!(time(&events[2]) - time(&events[0]) >= 3_000, "not before the grace has passed: {events:?}");
}

async fn a_cache_miss_is_told(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[hook(&receiver, &["cache_miss"], "")]).await;
    let _ann = member_of(cluster.first(), &["cache-empty"]).await;
    let events = receiver.until_taken(1).await;
    assert_eq!((&events[0]["channel"], &events[0]["data"]), (&json!("cache-empty"), &json!("{}")));
    cluster.caller("1").publish("cache-full", "x", "1").await;
    let _bob = member_of(cluster.second(), &["cache-full", "cache-last"]).await;
    let events = receiver.until_taken(2).await;
    assert_eq!(events[1]["channel"], "cache-last", "there was something in the other");
}

async fn subscription_counts_are_told(backend: Backend) {
    let receiver = Receiver::start().await;
    let cluster = start(backend, &[hook(&receiver, &["subscription_count"], "")]).await;
    let mut browsers = Vec::new();
    for count in 1..=3 {
        let node = if count % 2 == 0 { cluster.first() } else { cluster.second() };
        browsers.push(member_of(node, &["news"]).await);
        let events = receiver.until_taken(count).await;
        assert_eq!(events[count - 1]["subscription_count"], count, "{events:?}");
        assert_eq!(events[count - 1]["channel"], "news");
    }
}

/// Must show 5, at the length that a test may take: the receiver is down, the node
/// that was to deliver is killed, another one delivers.
#[tokio::test]
async fn cluster_delivers_everything_when_a_node_is_killed() {
    bounded(async {
        const CHANNELS: usize = 40;
        const ROUNDS: usize = 5;
        let mut receiver = Receiver::start().await;
        let redis = Redis::start().await;
        let node = Server::builder().app(app(&[client_events(&receiver)])).redis(&redis);
        let mut nodes = Vec::new();
        for name in ["node a", "node b", "node c"] {
            nodes.push(node.clone().name(name).start().await);
        }
        let channels: Vec<String> = (0..CHANNELS).map(|n| format!("private-{n}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut ann = member_of(&nodes[1], &channels).await;
        let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for round in 0..ROUNDS {
            for channel in &channels {
                say(&mut ann, channel, round).await;
                sent.entry(channel).or_default().push(round.to_string());
            }
            match round {
                0 => drop(receiver.until_taken(CHANNELS).await),
                1 => receiver.down().await,
                2 => nodes[0].kill9(),
                _ => {}
            }
        }
        ann.settle().await;
        receiver.up().await;
        let everything = |calls: &[Call]| {
            let taken: Vec<Value> =
                calls.iter().filter(|call| call.is_taken()).flat_map(Call::events).collect();
            once_each(&taken).len() == CHANNELS * ROUNDS
        };
        let calls = receiver.until("every event", everything).await;
        let taken: Vec<Value> = calls.iter().filter(|call| call.is_taken()).flat_map(Call::events).collect();
        for (channel, sent) in sent {
            assert_eq!(said(&once_each(&taken), channel), sent, "{channel}");
        }
        for call in &calls {
            call.expect_signed(nodes[1].app("1"));
        }
    })
    .await;
}

/// WebhookEventKind was delivered and could not be removed may come again; nothing is lost.
#[tokio::test]
async fn cluster_delivers_everything_when_redis_was_away() {
    bounded(async {
        let mut receiver = Receiver::start().await;
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node = Server::builder().app(app(&[client_events(&receiver)])).redis_url(&proxy.url());
        let node = node.start().await;
        let channels: Vec<String> = (0..20).map(|n| format!("private-{n}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut ann = member_of(&node, &channels).await;
        receiver.down().await;
        for round in 0..3 {
            for channel in &channels {
                say(&mut ann, channel, round).await;
            }
        }
        ann.settle().await;
        eventually("all of them are read", PATIENCE, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 60.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
        proxy.cut(Links::All);
        eventually("all of them are let go", PATIENCE, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 0.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
        receiver.up().await;
        proxy.heal();
        let events = receiver.until_taken(60).await;
        for channel in channels {
            assert_eq!(said(&once_each(&events), channel), numbers(0..3), "{channel}");
        }
        eventually("the outboxes are empty", PATIENCE, async || {
            let pending = node.metrics().await.sum("fanfare_webhook_events_pending");
            if pending == 0.0 { Ok(()) } else { Err(pending.to_string()) }
        })
        .await;
    })
    .await;
}
