//! Resuming a subscription, as in `docs/resume.md`: the missed events follow in order, each
//! once, or the confirmation has `"resumed":false`.

use std::time::{Duration, Instant};

use fanfare::limits;
use serde_json::{Value, json};

use crate::support::browser::Incoming;
use crate::support::delta_client::Encoding;
use crate::support::{
    AppSpec, Backend, Caller, Cluster, FrameKind, ResumeState, ResumingClient, Server, on_both_backends,
};

on_both_backends![
    resume_confirmation_contains_the_position_on_every_channel_kind,
    resume_sends_missed_events_before_live_events,
    resume_from_a_position_within_a_batch_sends_the_rest,
    resume_with_bases_sends_missed_events_as_deltas,
    resume_without_bases_sends_the_first_event_in_full,
    resume_omits_events_that_exclude_previous_socket_ids,
    resume_position_advances_past_filtered_events,
    resume_omits_missed_member_changes_and_counts,
    resume_omits_the_cached_event,
    resume_on_the_same_connection_is_allowed_once_per_second,
    resume_from_a_position_of_another_epoch_is_declined,
    resume_sends_missed_client_events,
    resume_of_concurrent_clients_with_different_bases_succeeds,
    resume_is_invisible_to_clients_without_it,
    resume_of_concurrent_clients_excludes_each_socket_id_separately,
    resume_position_advances_past_own_events,
    resume_continues_chains_with_conflation_keys,
    resume_works_on_user_channels,
    resume_frames_use_the_event_prefix_of_the_connection,
];

const CONFIG: &str = "[delta_compression]\nfull_message_interval = 0\n[tag_filtering]\nenabled = true\n";

async fn cluster(backend: Backend) -> Cluster {
    let app = AppSpec::new("1").set("enable_client_messages", true).set("max_event_batch_size", 100);
    Cluster::builder(backend).config(CONFIG).app(app).start().await
}

async fn server() -> Server {
    Server::builder().config(CONFIG).start().await
}

/// Event data that compresses well as a delta.
fn text(number: usize) -> String {
    json!({ "number": number, "same": "all the same ".repeat(30) }).to_string()
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(text).collect()
}

async fn publish(caller: &Caller, channel: &str, number: usize) {
    caller.publish(channel, "e", &text(number)).await;
}

/// Publishes the events as one batch.
async fn publish_batch(caller: &Caller, channel: &str, numbers: std::ops::Range<usize>) {
    let event = |number| json!({ "name": "e", "channel": channel, "data": text(number) });
    caller.post_batch(numbers.map(event).collect()).await.expect_ok();
}

async fn resume_confirmation_contains_the_position_on_every_channel_kind(backend: Backend) {
    let cluster = cluster(backend).await;
    for channel in ["news", "private-news", "cache-news", "private-cache-news", "private-encrypted-news"] {
        let mut client = ResumingClient::on(cluster.second(), channel, json!({})).await;
        if channel.contains("cache-") {
            assert_eq!(client.browser.next().await.event, "pusher:cache_miss");
        }
        publish(&cluster.caller("1"), channel, 1).await;
        let event = client.event().await;
        assert_eq!((event.encoding, event.data), (Encoding::Plain, text(1)), "{channel}");
        assert_eq!(event.seq, Some(client.state.seq), "{channel}");
        assert!(event.text.ends_with(&format!(r#","__seq":{}}}"#, client.state.seq)), "{}", event.text);
        assert_ne!(client.state.epoch, 0, "{channel}: the epoch is unknown after the first event");

        let mut next = ResumingClient::on(cluster.first(), channel, json!({})).await;
        if channel.contains("cache-") {
            next.event().await;
        }
        let position = (next.state.epoch, next.state.seq);
        assert_eq!(position, (client.state.epoch, client.state.seq), "{channel}");
    }

    let mut browser = cluster.second().browser("key1").await;
    let frame = join(&mut browser, "ann", json!(true)).await;
    let data = frame.data_json();
    assert_eq!(data["presence"]["ids"], json!(["ann"]));
    assert!(data["epoch"].is_u64() && data["seq"].is_u64() && data["resumed"] == false, "{}", frame.text);
}

/// Subscribes to a presence channel with `resume`; returns the confirmation.
async fn join(browser: &mut crate::support::Browser, user_id: &str, resume: Value) -> crate::support::Frame {
    let channel_data = json!({ "user_id": user_id, "user_info": {} }).to_string();
    let text = fanfare::auth::subscription_text(browser.socket_id(), "presence-room", Some(&channel_data));
    let auth = browser.sign_text(&text);
    let data =
        json!({ "channel": "presence-room", "auth": auth, "channel_data": channel_data, "resume": resume });
    browser.subscribe_raw(data).await;
    browser.confirmed("presence-room").await
}

async fn resume_sends_missed_events_before_live_events(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    for (round, members) in [json!({}), json!({ "delta": true })].into_iter().enumerate() {
        let channel = format!("news-{round}");
        let mut client = ResumingClient::on(cluster.second(), &channel, members.clone()).await;
        publish_batch(&caller, &channel, 0..3).await;
        client.events(&texts(0..3)).await;
        for (turn, node) in [cluster.second(), cluster.first(), cluster.second()].into_iter().enumerate() {
            let state = client.disconnect();
            let next = 3 + 11 * turn;
            publish_batch(&caller, &channel, next..next + 10).await;
            let resume = state.resume();
            let resumed;
            (client, resumed) =
                ResumingClient::reconnect(node, &channel, members.clone(), state, resume).await;
            assert!(resumed, "{members} {turn}");
            publish(&caller, &channel, next + 10).await;
            client.events(&texts(next..next + 11)).await;
        }
        // Resuming without missed events succeeds too.
        let state = client.disconnect();
        let resume = state.resume();
        let (mut client, resumed) =
            ResumingClient::reconnect(cluster.first(), &channel, members.clone(), state, resume).await;
        assert!(resumed);
        publish(&caller, &channel, 99).await;
        client.events(&texts(99..100)).await;
    }
}

async fn resume_from_a_position_within_a_batch_sends_the_rest(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut client = ResumingClient::on(cluster.first(), "news", json!({ "delta": true })).await;
    publish_batch(&caller, "news", 0..10).await;
    let mut states = Vec::new();
    for number in 0..10 {
        client.events(&texts(number..number + 1)).await;
        states.push(client.state.clone());
    }
    for (number, state) in states.into_iter().enumerate() {
        let node = if number % 2 == 0 { cluster.first() } else { cluster.second() };
        let resume = state.resume();
        let (mut client, resumed) =
            ResumingClient::reconnect(node, "news", json!({ "delta": true }), state, resume).await;
        assert!(resumed);
        let encoding = client.events(&texts(number + 1..10)).await;
        assert!(encoding.iter().all(|encoding| *encoding == Encoding::Delta), "{number}: {encoding:?}");
    }
}

async fn resume_with_bases_sends_missed_events_as_deltas(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    for algorithm in ["fossil", "xdelta3"] {
        let members = json!({ "delta": algorithm });
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish_batch(&caller, "news", 0..2).await;
        client.events(&texts(0..2)).await;
        let state = client.disconnect();
        publish_batch(&caller, "news", 2..6).await;
        let resume = state.resume();
        let (mut client, resumed) =
            ResumingClient::reconnect(cluster.second(), "news", members, state, resume).await;
        assert!(resumed);
        assert_eq!(client.events(&texts(2..6)).await, [Encoding::Delta; 4]);
        publish(&caller, "news", 6).await;
        assert_eq!(client.events(&texts(6..7)).await, [Encoding::Delta]);
    }
}

async fn resume_without_bases_sends_the_first_event_in_full(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "delta": true });
    let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
    publish_batch(&caller, "news", 0..2).await;
    client.events(&texts(0..2)).await;
    let mut state = client.disconnect();
    publish_batch(&caller, "news", 2..5).await;
    let resume = state.resume_without_bases();
    let (mut client, resumed) =
        ResumingClient::reconnect(cluster.second(), "news", members.clone(), state, resume).await;
    assert!(resumed);
    assert_eq!(client.events(&texts(2..5)).await, [Encoding::Full, Encoding::Delta, Encoding::Delta]);

    // Without missed events and without bases, the first live event is full.
    let mut state = client.disconnect();
    let resume = state.resume_without_bases();
    let (mut client, resumed) =
        ResumingClient::reconnect(cluster.first(), "news", members, state, resume).await;
    assert!(resumed);
    publish_batch(&caller, "news", 5..7).await;
    assert_eq!(client.events(&texts(5..7)).await, [Encoding::Full, Encoding::Delta]);
}

async fn resume_omits_events_that_exclude_previous_socket_ids(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "delta": true });
    let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
    publish(&caller, "news", 0).await;
    client.events(&texts(0..1)).await;
    let publish_excluding = async |number: usize, socket: &str| {
        let event = json!({ "name": "e", "channel": "news", "data": text(number), "socket_id": socket });
        caller.post_events(event).await.expect_ok();
    };
    let mut number = 1;
    for node in [cluster.second(), cluster.first(), cluster.second(), cluster.first()] {
        let state = client.disconnect();
        let mut expected = Vec::new();
        // Excludes each previous socket id of the client, then a foreign one.
        for socket in state.sockets.iter().map(String::as_str).chain(["7.7"]) {
            publish_excluding(number, socket).await;
            publish(&caller, "news", number + 1).await;
            expected.extend((socket == "7.7").then(|| text(number)));
            expected.push(text(number + 1));
            number += 2;
        }
        let resume = state.resume();
        let resumed;
        (client, resumed) = ResumingClient::reconnect(node, "news", members.clone(), state, resume).await;
        assert!(resumed);
        client.events(&expected).await;
        // The exclusion applies to live events too, and after a resume that comes too soon.
        for resumes in [0, 2] {
            for _ in 0..resumes {
                let resume = client.state.resume();
                client.subscribe(members.clone(), resume).await;
            }
            for socket in client.state.sockets.clone() {
                publish_excluding(number, &socket).await;
                publish(&caller, "news", number + 1).await;
                client.events(&texts(number + 1..number + 2)).await;
                number += 2;
            }
        }
    }
}

async fn resume_position_advances_past_filtered_events(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "filter": { "key": "kind", "cmp": "eq", "val": "goal" }, "delta": true });
    let publish_tagged = async |number: usize, kind: &str| {
        let event = json!({ "name": "e", "channel": "news", "data": text(number), "tags": { "kind": kind } });
        caller.post_events(event).await.expect_ok();
    };
    let mut client = ResumingClient::on(cluster.second(), "news", members.clone()).await;
    publish_tagged(0, "goal").await;
    client.events(&texts(0..1)).await;
    let before = client.state.seq;
    let began = Instant::now();
    for number in 1..6 {
        publish_tagged(number, "shot").await;
    }
    // One position notice covers all of them.
    while client.state.seq < before + 5 {
        assert!(!client.position().await);
    }
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "a position notice for each event: {:?}",
        began.elapsed()
    );

    // The client resumes from the noticed position. Two of three missed entries are filtered
    // out.
    let state = client.disconnect();
    publish_tagged(6, "shot").await;
    publish_tagged(7, "goal").await;
    publish_tagged(8, "shot").await;
    let resume = state.resume();
    let (mut client, resumed) =
        ResumingClient::reconnect(cluster.first(), "news", members, state, resume).await;
    assert!(resumed);
    // The base is the last event that passed the filter.
    assert_eq!(client.events(&texts(7..8)).await, [Encoding::Delta]);
    while client.state.seq < before + 8 {
        assert!(!client.position().await);
    }
}

async fn resume_omits_missed_member_changes_and_counts(backend: Backend) {
    let app = AppSpec::new("1").set("enable_subscription_count", true);
    let cluster = Cluster::builder(backend).config(CONFIG).app(app).start().await;
    let mut ann = cluster.first().browser("key1").await;
    let mut state = ResumeState::default();
    assert!(!state.on_confirmation(&join(&mut ann, "ann", json!(true)).await));
    drop(ann);
    let mut ben = cluster.first().browser("key1").await;
    ben.join("presence-room", "ben").await;
    publish(&cluster.caller("1"), "presence-room", 1).await;
    let mut ann = cluster.second().browser("key1").await;
    let frame = join(&mut ann, "ann", state.resume()).await;
    assert!(state.on_confirmation(&frame));
    let mut ids: Vec<String> = serde_json::from_value(frame.data_json()["presence"]["ids"].clone()).unwrap();
    ids.sort();
    assert_eq!(ids, ["ann", "ben"]);
    match state.on_frame(&ann.next().await) {
        FrameKind::Event(event) => assert_eq!(event.data, text(1)),
        other => panic!("{other:?}"),
    }

    // Only the current subscription count is sent.
    let mut first = ResumingClient::on(cluster.first(), "news", json!({})).await;
    assert_eq!(first.browser.next().await.data_json(), json!({ "subscription_count": 1 }));
    let state = first.disconnect();
    cluster.caller("1").count_becomes("news", 0).await;
    let _others = cluster.subscribers(&["news"]).await;
    publish(&cluster.caller("1"), "news", 1).await;
    let resume = state.resume();
    let (mut back, _) = ResumingClient::reconnect(cluster.second(), "news", json!({}), state, resume).await;
    assert_eq!(back.browser.next().await.data_json()["subscription_count"], 3);
}

async fn resume_omits_the_cached_event(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    for members in [json!({}), json!({ "delta": true })] {
        publish(&caller, "cache-news", 0).await;
        let mut client = ResumingClient::on(cluster.first(), "cache-news", members.clone()).await;
        client.events(&texts(0..1)).await;
        publish(&caller, "cache-news", 1).await;
        client.events(&texts(1..2)).await;
        let state = client.disconnect();
        let resume = state.resume();
        let back = ResumingClient::reconnect(cluster.second(), "cache-news", members.clone(), state, resume);
        let (mut client, resumed) = back.await;
        assert!(resumed);
        publish(&caller, "cache-news", 2).await;
        client.events(&texts(2..3)).await;
        // A new subscription receives the cached event.
        let mut new = ResumingClient::on(cluster.second(), "cache-news", members).await;
        new.events(&texts(2..3)).await;
    }
}

async fn resume_on_the_same_connection_is_allowed_once_per_second(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "delta": true });
    let mut client = ResumingClient::on(cluster.second(), "news", members.clone()).await;
    publish(&caller, "news", 0).await;
    client.events(&texts(0..1)).await;
    let mut at = client.state.clone();
    publish_batch(&caller, "news", 1..4).await;
    client.events(&texts(1..4)).await;
    // As a client does that could not decode the second event.
    let resume = at.resume_without_bases();
    client.state = at.clone();
    let requested = Instant::now();
    assert!(client.subscribe(members.clone(), resume.clone()).await);
    assert_eq!(client.events(&texts(1..4)).await, [Encoding::Full, Encoding::Delta, Encoding::Delta]);
    publish(&caller, "news", 4).await;
    assert_eq!(client.events(&texts(4..5)).await, [Encoding::Delta]);

    // At most once per second: further requests are confirmed without recovery.
    let mut next = 5;
    client.state = at.clone();
    while !client.subscribe(members.clone(), resume.clone()).await {
        publish(&caller, "news", next).await;
        assert_eq!(client.events(&texts(next..next + 1)).await, [Encoding::Full]);
        next += 1;
        tokio::time::sleep(limits::DELTA_SYNC_INTERVAL / 4).await;
        client.state = at.clone();
    }
    assert!(requested.elapsed() >= limits::DELTA_SYNC_INTERVAL, "{:?}", requested.elapsed());
    assert_eq!(client.events(&texts(1..next)).await[0], Encoding::Full);
}

async fn resume_from_a_position_of_another_epoch_is_declined(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut client = ResumingClient::on(cluster.first(), "news", json!({ "delta": true })).await;
    publish_batch(&caller, "news", 0..3).await;
    client.events(&texts(0..3)).await;
    let state = client.disconnect();
    let ResumeState { epoch, seq, .. } = state;
    for (number, mut resume) in [
        json!({ "epoch": epoch + 1, "seq": seq }),
        json!({ "epoch": epoch - 1, "seq": seq, "from": seq }),
        json!({ "epoch": 0, "seq": 0 }),
        json!({ "epoch": 0, "seq": seq }),
        json!({ "epoch": epoch, "seq": seq + 1_000 }),
        json!({ "epoch": epoch, "seq": 2_147_483_647, "from": 7 }),
        json!({ "epoch": 1_u64 << 53, "seq": 0 }),
    ]
    .into_iter()
    .enumerate()
    {
        resume["token"] = state.token.as_str().into();
        let node = if number % 2 == 0 { cluster.first() } else { cluster.second() };
        let (mut client, resumed) =
            ResumingClient::reconnect(node, "news", json!({ "delta": true }), state.clone(), resume.clone())
                .await;
        assert!(!resumed, "{resume}");
        assert_eq!(client.state.epoch, epoch, "{resume}");
        // Live events follow the current position.
        publish(&caller, "news", 100 + number).await;
        assert_eq!(client.events(&texts(100 + number..101 + number)).await, [Encoding::Full], "{resume}");
    }
    // The valid position can still be resumed.
    let resume = state.resume();
    let (mut client, resumed) =
        ResumingClient::reconnect(cluster.second(), "news", json!({ "delta": true }), state, resume).await;
    assert!(resumed);
    client.events(&texts(100..107)).await;
}

async fn resume_sends_missed_client_events(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "delta": true });
    let mut client = ResumingClient::on(cluster.first(), "private-room", members.clone()).await;
    let mut sender = cluster.second().browser("key1").await;
    sender.subscribe("private-room").await;
    publish(&caller, "private-room", 0).await;
    sender.expect_event("private-room", "e").await;
    client.events(&texts(0..1)).await;
    let trigger = async |sender: &mut crate::support::Browser, number: usize| {
        sender.trigger("private-room", "client-e", serde_json::from_str(&text(number)).unwrap()).await;
        sender.settle().await;
    };
    trigger(&mut sender, 1).await;
    let event = client.event().await;
    assert_eq!((event.encoding, event.data), (Encoding::Plain, text(1)));
    assert_eq!(event.seq, Some(client.state.seq), "a client event has a sequence number");

    let state = client.disconnect();
    trigger(&mut sender, 2).await;
    publish(&caller, "private-room", 3).await;
    sender.find_event("e").await;
    trigger(&mut sender, 4).await;
    // The event published last reaches another subscriber: the client events before it have
    // been appended.
    let mut other = cluster.first().browser("key1").await;
    other.subscribe("private-room").await;
    publish(&caller, "private-room", 5).await;
    other.expect_event("private-room", "e").await;
    let resume = state.resume();
    let (mut client, resumed) =
        ResumingClient::reconnect(cluster.second(), "private-room", members, state, resume).await;
    assert!(resumed);
    let encoding = client.events(&texts(2..6)).await;
    assert_eq!(encoding, [Encoding::Plain, Encoding::Delta, Encoding::Plain, Encoding::Delta]);

    // The client's own events are not sent to it, whichever of its socket ids sent them.
    trigger(&mut client.browser, 6).await;
    let state = client.disconnect();
    let resume = state.resume();
    let back =
        ResumingClient::reconnect(cluster.first(), "private-room", json!({ "delta": true }), state, resume)
            .await;
    let (mut client, resumed) = back;
    assert!(resumed);
    publish(&caller, "private-room", 7).await;
    client.events(&texts(7..8)).await;
}

/// The clients are of one group and have different base states.
async fn resume_of_concurrent_clients_with_different_bases_succeeds(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let members = json!({ "delta": true });
    let mut stays = ResumingClient::on(cluster.second(), "news", members.clone()).await;
    let mut resumers = Vec::new();
    for number in 0..4 {
        let mut client = ResumingClient::on(cluster.first(), "news", members.clone()).await;
        publish(&caller, "news", number).await;
        client.events(&texts(number..number + 1)).await;
        stays.events(&texts(number..number + 1)).await;
        resumers.push(client.disconnect());
    }
    publish_batch(&caller, "news", 4..8).await;
    stays.events(&texts(4..8)).await;
    let back = resumers.into_iter().enumerate().map(|(number, mut state)| {
        // Every second client has lost its bases.
        let resume = if number % 2 == 0 { state.resume() } else { state.resume_without_bases() };
        ResumingClient::reconnect(cluster.second(), "news", members.clone(), state, resume)
    });
    let mut back = futures_util::future::join_all(back).await;
    for (number, (client, resumed)) in back.iter_mut().enumerate() {
        assert!(*resumed);
        let encoding = client.events(&texts(number + 1..8)).await;
        assert_eq!(encoding[0], if number % 2 == 0 { Encoding::Delta } else { Encoding::Full });
        assert!(encoding[1..].iter().all(|encoding| *encoding == Encoding::Delta), "{encoding:?}");
    }
    publish_batch(&caller, "news", 8..10).await;
    for (client, _) in &mut back {
        assert_eq!(client.events(&texts(8..10)).await, [Encoding::Delta, Encoding::Delta]);
    }
    assert_eq!(stays.events(&texts(8..10)).await, [Encoding::Delta, Encoding::Delta]);
}

async fn resume_is_invisible_to_clients_without_it(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut plain = cluster.second().browser("key1").await;
    let frame = plain.subscribe("news").await;
    let succeeded = r#"{"channel":"news","data":"{}","event":"pusher_internal:subscription_succeeded"}"#;
    assert_eq!(frame.text, succeeded);
    let mut refuses = cluster.second().browser("key1").await;
    assert_eq!(refuses.subscribe_with("news", json!({ "resume": false })).await.text, succeeded);
    let mut client = ResumingClient::on(cluster.second(), "news", json!({})).await;
    for number in 0..5 {
        publish(&caller, "news", number).await;
        let data = Value::from(text(number));
        for browser in [&mut plain, &mut refuses] {
            let frame = browser.expect_event("news", "e").await;
            assert_eq!(frame.text, format!(r#"{{"event":"e","channel":"news","data":{data}}}"#));
        }
        client.events(&texts(number..number + 1)).await;
        let state = client.disconnect();
        let resume = state.resume();
        (client, _) = ResumingClient::reconnect(cluster.first(), "news", json!({}), state, resume).await;
    }
}

/// The error names the invalid member, and the connection and its subscriptions stay.
#[tokio::test]
async fn resume_with_an_invalid_position_is_refused() {
    let server = server().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    browser.subscribe("news").await;
    for (resume, member) in [
        (json!(7), "resume"),
        (json!("true"), "resume"),
        (json!([1, 2]), "resume"),
        (json!({}), "resume.epoch"),
        (json!({ "seq": 5 }), "resume.epoch"),
        (json!({ "epoch": "7", "seq": 5 }), "resume.epoch"),
        (json!({ "epoch": -7, "seq": 5 }), "resume.epoch"),
        (json!({ "epoch": 7.5, "seq": 5 }), "resume.epoch"),
        (json!({ "epoch": 9_007_199_254_740_993_u64, "seq": 5 }), "resume.epoch"),
        (json!({ "epoch": 7 }), "resume.seq"),
        (json!({ "epoch": 7, "seq": null }), "resume.seq"),
        (json!({ "epoch": 7, "seq": -1 }), "resume.seq"),
        (json!({ "epoch": 7, "seq": 2_147_483_648_u64 }), "resume.seq"),
        (json!({ "epoch": 7, "seq": 5, "from": "3" }), "resume.from"),
        (json!({ "epoch": 7, "seq": 5, "from": {} }), "resume.from"),
        (json!({ "epoch": 7, "seq": 5, "socket_id": 7 }), "resume.socket_id"),
        (json!({ "epoch": 7, "seq": 5, "socket_id": "" }), "resume.socket_id"),
        (json!({ "epoch": 7, "seq": 5, "socket_id": ["1.2", 3] }), "resume.socket_id"),
        (json!({ "epoch": 7, "seq": 5, "socket_id": vec!["1.2"; 9] }), "resume.socket_id"),
    ] {
        // With and without an existing subscription.
        for channel in ["news", "olds"] {
            browser.request_subscription_with(channel, json!({ "resume": resume })).await;
            let error = browser.expect_subscription_error(channel).await;
            assert_eq!(
                (&error["type"], &error["status"]),
                (&json!("InvalidResume"), &json!(400)),
                "{resume}"
            );
            let text = error["error"].as_str().unwrap();
            assert!(text.contains(&format!("`{member}`")), "{resume}: {text}");
        }
        caller.publish("news", "still", "here").await;
        browser.expect_event("news", "still").await;
    }
}

/// At most one position notice per second; the last one needs no further event.
#[tokio::test]
async fn position_notices_are_sent_at_most_once_per_second() {
    let server = server().await;
    let caller = server.caller("1");
    let members = json!({ "filter": { "key": "x", "cmp": "ex" } });
    let mut client = ResumingClient::on(&server, "news", members).await;
    caller
        .post_events(json!({ "name": "e", "channel": "news", "data": text(0), "tags": { "x": "1" } }))
        .await;
    client.events(&texts(0..1)).await;
    let (before, began) = (client.state.seq, Instant::now());
    let (mut notices, mut published) = (0, 0);
    while began.elapsed() < Duration::from_millis(2_500) {
        publish(&caller, "news", 1).await;
        published += 1;
        if let Ok(Incoming::Frame(frame)) = tokio::time::timeout(
            Duration::from_millis(20),
            client.browser.incoming_within(Duration::from_secs(1)),
        )
        .await
        {
            assert_eq!(frame.event, "pusher:position");
            client.state.on_frame(&frame);
            notices += 1;
        }
    }
    while client.state.seq < before + published {
        assert!(!client.position().await);
        notices += 1;
    }
    println!("{notices} position notices for {published} events in {:?}", began.elapsed());
    assert!((2..=4).contains(&notices), "{notices} position notices");
}

/// An event may exclude a connection that is not subscribed yet. Other clients that resume
/// from the same position receive that event.
async fn resume_of_concurrent_clients_excludes_each_socket_id_separately(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    publish(&caller, "news", 0).await;
    for round in 0..4 {
        let mut states = Vec::new();
        for _ in 0..10 {
            states.push(ResumingClient::on(cluster.first(), "news", json!({})).await.disconnect());
        }
        let mut back = Vec::new();
        for state in states {
            let browser = cluster.second().browser("key1").await;
            back.push(ResumingClient { browser, state, channel: "news".into() });
        }
        let ids: Vec<String> = back.iter().map(|it| it.browser.socket_id().to_owned()).collect();
        for number in [1, 2] {
            let excluded = &ids[(round * 3 + number) % 10];
            let event =
                json!({ "name": "e", "channel": "news", "data": text(number), "socket_id": excluded });
            caller.post_events(event).await.expect_ok();
        }
        let back = back.into_iter().map(|client| {
            let resume = client.state.resume();
            client.resume(json!({}), resume)
        });
        let mut back = futures_util::future::join_all(back).await;
        publish(&caller, "news", 3).await;
        for (at, (client, resumed)) in back.iter_mut().enumerate() {
            assert!(*resumed);
            let mut expected: Vec<usize> = (1..=2).filter(|number| (round * 3 + number) % 10 != at).collect();
            expected.push(3);
            let expected: Vec<String> = expected.into_iter().map(text).collect();
            client.events(&expected).await;
        }
    }
}

/// Otherwise the position of a client that publishes a lot would expire from the history
/// although the client missed nothing.
async fn resume_position_advances_past_own_events(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut sender = ResumingClient::on(cluster.second(), "news", json!({})).await;
    publish(&caller, "news", 0).await;
    sender.events(&texts(0..1)).await;
    let before = sender.state.seq;
    for number in 1..4 {
        let socket = sender.browser.socket_id();
        let event = json!({ "name": "e", "channel": "news", "data": text(number), "socket_id": socket });
        caller.post_events(event).await.expect_ok();
    }
    while sender.state.seq < before + 3 {
        assert!(!sender.position().await);
    }
}

async fn resume_continues_chains_with_conflation_keys(backend: Backend) {
    for markers in ["underscore", "plain"] {
        let app = AppSpec::new("1")
            .set("channel_delta_compression", r#"{ "ticks" = { conflation_key = "key" } }"#)
            .set("max_event_batch_size", 100);
        let config = format!("[delta_compression]\nfull_message_interval = 0\nmarkers = \"{markers}\"\n");
        let cluster = Cluster::builder(backend).config(&config).app(app).start().await;
        let caller = cluster.caller("1");
        let tick = |key: usize, number: usize| {
            json!({ "key": key, "number": number, "same": "all the same ".repeat(30) }).to_string()
        };
        let all = |number: usize| -> Vec<String> { (0..20).map(|key| tick(key, number)).collect() };
        let batch = |ticks: &[String]| -> Value {
            ticks.iter().map(|data| json!({ "name": "e", "channel": "ticks", "data": data })).collect()
        };
        let members = json!({ "delta": true });
        let mut client = ResumingClient::on(cluster.first(), "ticks", members.clone()).await;
        caller.post_batch(batch(&all(0))).await.expect_ok();
        assert_eq!(client.events(&all(0)).await, [Encoding::Full; 20]);
        for (number, node) in [(1, cluster.second()), (3, cluster.first()), (5, cluster.first())] {
            let state = client.disconnect();
            // Some of its chains advance while the client is disconnected.
            let some = &all(number)[5..10];
            caller.post_batch(batch(some)).await.expect_ok();
            let resume = state.resume();
            let resumed;
            (client, resumed) =
                ResumingClient::reconnect(node, "ticks", members.clone(), state, resume).await;
            assert!(resumed);
            assert_eq!(client.events(some).await, [Encoding::Delta; 5]);
            caller.post_batch(batch(&all(number + 1))).await.expect_ok();
            assert_eq!(client.events(&all(number + 1)).await, [Encoding::Delta; 20], "{markers} {number}");
        }
        // Without bases, the first event of each chain is sent in full.
        let mut state = client.disconnect();
        caller.post_batch(batch(&all(7)[..2])).await.expect_ok();
        let resume = state.resume_without_bases();
        let (mut client, resumed) =
            ResumingClient::reconnect(cluster.second(), "ticks", members, state, resume).await;
        assert!(resumed);
        assert_eq!(client.events(&all(7)[..2]).await, [Encoding::Full; 2]);
        caller.post_batch(batch(&all(8))).await.expect_ok();
        assert_eq!(client.events(&all(8)).await, [Encoding::Full; 20]);
    }
}

async fn resume_works_on_user_channels(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let channel = "#server-to-user-ann";
    let connect = async |server: &Server, state: ResumeState| {
        let mut browser = server.browser("key1").await;
        browser.sign_in("ann").await;
        ResumingClient { browser, state, channel: channel.into() }
    };
    let mut client = connect(cluster.first(), ResumeState::default()).await;
    assert!(!client.subscribe(json!({}), json!(true)).await);
    publish(&caller, channel, 0).await;
    client.events(&texts(0..1)).await;
    let state = client.disconnect();
    publish(&caller, channel, 1).await;
    let resume = state.resume();
    let (mut client, resumed) =
        connect(cluster.second(), state).await.resume(json!({ "delta": true }), resume).await;
    println!("resumed: {resumed}");
    publish(&caller, channel, 2).await;
    let next = if resumed { 1 } else { 2 };
    client.events(&texts(next..3)).await;
    assert!(resumed);
}

async fn resume_frames_use_the_event_prefix_of_the_connection(backend: Backend) {
    let cluster = cluster(backend).await;
    let mut browser = cluster.second().connect("/app/key1?protocol=2").await;
    assert_eq!(browser.next().await.event, "sockudo:connection_established");
    let filter = json!({ "key": "x", "cmp": "ex" });
    let data = json!({ "channel": "news", "resume": true, "delta": true, "filter": filter });
    browser.send(json!({ "event": "sockudo:subscribe", "data": data })).await;
    let frame = browser.next().await;
    assert_eq!(frame.event, "sockudo_internal:subscription_succeeded");
    assert_eq!(frame.data_json()["resumed"], false);
    assert_eq!(browser.next().await.event, "sockudo:delta_compression_enabled");
    publish(&cluster.caller("1"), "news", 0).await;
    // One position notice with the new epoch, and a later one for the filtered event.
    for _ in 0..2 {
        assert_eq!(browser.next().await.event, "sockudo:position");
    }
}
