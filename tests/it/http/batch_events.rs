//! `POST /apps/{id}/batch_events` (protocol.md 1.4): all or nothing, in order.

use rand::RngExt;
use serde_json::{Value, json};

use crate::support::browser::Incoming;
use crate::support::{AppSpec, Backend, Cluster, Seed, Subscribers, invalid_events, on_both_backends};

on_both_backends![
    batch_events_arrive_in_order,
    batch_over_several_channels_arrives_grouped_by_channel,
    batch_with_one_invalid_event_publishes_nothing,
    batch_with_two_invalid_events_reports_the_first,
    batch_info_has_one_object_per_event,
    batch_without_info_is_answered_with_empty_object,
    batch_longer_than_app_limit_is_refused,
    batch_of_disconnected_publisher_is_published_whole_or_not_at_all,
    batch_events_exclude_different_sockets,
    concurrent_batches_are_not_interleaved,
];

fn event(number: usize) -> Value {
    let channel = if number.is_multiple_of(2) { "news" } else { "sport" };
    json!({ "name": format!("e{number}"), "channel": channel, "data": number.to_string() })
}

fn events(count: usize) -> Value {
    (0..count).map(|number| json!({ "name": "e", "channel": "news", "data": number.to_string() })).collect()
}

async fn batch_events_arrive_in_order(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;

    for _ in 0..20 {
        assert_eq!(caller.post_batch(events(10)).await.expect_ok(), json!({}));
        for number in 0..10 {
            let frame = subscribers.expect_event("news", "e").await;
            assert_eq!(frame.text, format!(r#"{{"event":"e","channel":"news","data":"{number}"}}"#));
        }
    }
}

/// design.md P2: channels are published in order of first appearance, the events of
/// each channel together.
async fn batch_over_several_channels_arrives_grouped_by_channel(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    // Many pairs, since two channels may or may not share a partition or a shard.
    for pair in 0..20 {
        let (a, b) = (format!("a{pair}"), format!("b{pair}"));
        let mut subscribers = cluster.subscribers(&[&b, &a]).await;
        for _ in 0..5 {
            let batch = json!([
                { "name": "1", "channel": a, "data": "" },
                { "name": "1", "channel": b, "data": "" },
                { "name": "2", "channel": a, "data": "" },
                { "name": "3", "channels": [b, a], "data": "" },
            ]);
            caller.post_batch(batch).await.expect_ok();
            for (channel, name) in [(&a, "1"), (&a, "2"), (&a, "3"), (&b, "1"), (&b, "3")] {
                subscribers.expect_event(channel, name).await;
            }
        }
    }
}

async fn batch_with_one_invalid_event_publishes_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news", "sport"]).await;
    for invalid in invalid_events() {
        for position in 0..10 {
            let spoil = |number| if number == position { invalid.event.clone() } else { event(number) };
            let batch = (0..10).map(spoil).collect();
            let answer = caller.post_batch(batch).await;
            invalid.expect_refusal(&answer).at_index(position);
        }
        subscribers.expect_nothing(&caller, "news", invalid.what).await;
        subscribers.expect_nothing(&caller, "sport", invalid.what).await;
    }
}

async fn batch_with_two_invalid_events_reports_the_first(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut batch = events(10);
    batch[3]["socket_id"] = "not-a-socket-id".into();
    batch[7]["name"] = "".into();

    let answer = caller.post_batch(batch).await;

    answer.expect_error(400, "invalid_input").at_index(3).of_field("socket_id");
    subscribers.expect_nothing(&caller, "news", "two faults").await;
}

async fn batch_info_has_one_object_per_event(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let _both = cluster.subscribers(&["news", "sport"]).await;
    let _news = cluster.subscribers(&["news"]).await;
    let mut one = cluster.second().browser("key1").await;
    one.subscribe("sport").await;

    let mut batch: Value = (0..10).map(event).collect();
    batch[1]["info"] = "subscription_count".into();
    // Of several channels, the first one determines the info.
    batch[4] = json!({
        "name": "e4", "channels": ["news", "sport"], "data": "4", "info": "subscription_count,user_count",
    });
    batch[9]["info"] = "user_count".into();
    let expected = json!({ "batch": [
        {}, { "subscription_count": 3 }, {}, {}, { "subscription_count": 4 }, {}, {}, {}, {}, {},
    ]});
    assert_eq!(caller.post_batch(batch.clone()).await.expect_ok(), expected);

    batch[9]["info"] = "subscription_count".into();
    let mut expected = expected;
    expected["batch"][9] = json!({ "subscription_count": 3 });
    assert_eq!(caller.post_batch(batch.clone()).await.expect_ok(), expected);

    // Where an event has both members, `channel` is the first channel.
    batch[9] = json!({
        "name": "e9", "channel": "empty", "channels": ["news"], "data": "", "info": "subscription_count",
    });
    expected["batch"][9] = json!({ "subscription_count": 0 });
    assert_eq!(caller.post_batch(batch).await.expect_ok(), expected);
}

async fn batch_without_info_is_answered_with_empty_object(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    assert_eq!(caller.post_batch(events(10)).await.expect_ok(), json!({}));
    assert_eq!(caller.post_batch(json!([])).await.expect_ok(), json!({}));
}

async fn batch_longer_than_app_limit_is_refused(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut small = cluster.subscribers(&["news"]).await;
    let mut large = Subscribers(cluster.browsers("key2").await);
    for browser in &mut large.0 {
        browser.subscribe("news").await;
    }
    for (app, subscribers, lengths_taken, lengths_refused) in
        [("1", &mut small, &[1, 10][..], &[11, 1000, 1001][..]), ("2", &mut large, &[10, 11, 1000], &[1001])]
    {
        let caller = cluster.caller(app);
        for length in lengths_taken {
            caller.post_batch(events(*length)).await.expect_ok();
            for number in 0..*length {
                let frame = subscribers.expect_event("news", "e").await;
                assert_eq!(frame.data_text(), number.to_string());
            }
        }
        for length in lengths_refused {
            let answer = caller.post_batch(events(*length)).await;
            answer.expect_error(400, "limit_exceeded").of_field("batch");
            subscribers.expect_nothing(&caller, "news", "the batch was too long").await;
        }
    }
}

async fn batch_of_disconnected_publisher_is_published_whole_or_not_at_all(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut listener = cluster.second().browser("key1").await;
    listener.subscribe("news").await;
    let batches = 50;
    for batch in 0..batches {
        let events = (0..10)
            .map(|number| json!({ "name": "e", "channel": "news", "data": format!("{batch}.{number}") }));
        caller.batch(&events.collect()).send_and_hang_up().await;
    }
    caller.publish("news", "marker", "").await;

    // A batch runs as a whole or not at all; one may still arrive after the marker.
    let mut applied = 0;
    loop {
        let Incoming::Frame(first) = listener.incoming().await else { panic!("the listener was closed") };
        if first.event == "marker" {
            break;
        }
        let (batch, number) = first.data_text().split_once('.').unwrap();
        assert_eq!(number, "0", "the batch begins in the middle: {}", first.text);
        let batch = batch.to_owned();
        for number in 1..10 {
            let frame = listener.expect_event("news", "e").await;
            assert_eq!(frame.data_text(), format!("{batch}.{number}"));
        }
        applied += 1;
    }
    println!("{applied} of {batches} batches of disconnected publishers were published");
}

async fn batch_events_exclude_different_sockets(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut listeners = cluster.subscribers(&["news"]).await.0;
    let ids: Vec<String> = listeners.iter().map(|browser| browser.socket_id().to_owned()).collect();
    let batch = json!([
        { "name": "not-0", "channel": "news", "data": "", "socket_id": ids[0] },
        { "name": "all", "channel": "news", "data": "" },
        { "name": "not-1", "channel": "news", "data": "", "socket_id": ids[1] },
    ]);
    caller.post_batch(batch).await.expect_ok();
    caller.publish("news", "marker", "").await;
    let expected = [["all", "not-1", "marker"], ["not-0", "all", "marker"]];
    for (browser, names) in listeners.iter_mut().zip(expected) {
        for name in names {
            browser.expect_event("news", name).await;
        }
    }
}

#[tokio::test]
async fn batch_that_is_not_an_array_is_refused() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    for body in [
        json!({}),
        json!({ "batch": null }),
        json!({ "batch": {} }),
        json!({ "batch": "[]" }),
        json!({ "batch": 7 }),
        json!({ "events": [] }),
    ] {
        let answer = caller.request("POST", "/batch_events").json(&body).send().await;
        answer.expect_error(400, "invalid_input").of_field("batch").without_index();
    }
    for body in [json!([]), json!(null), json!(7)] {
        let answer = caller.request("POST", "/batch_events").json(&body).send().await;
        answer.expect_error(400, "invalid_input");
    }
}

#[tokio::test]
async fn batch_ignores_unknown_members() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let body = json!({ "before": [[1]], "batch": events(2), "after": { "batch": [] } });
    cluster.caller("1").request("POST", "/batch_events").json(&body).send().await.expect_ok();
    for _ in 0..2 {
        subscribers.expect_event("news", "e").await;
    }
}

#[tokio::test]
async fn batch_publications_over_limit_are_refused() {
    let app = AppSpec::new("4").set("max_event_batch_size", 100).set("max_batch_publications", 20);
    let cluster = Cluster::builder(Backend::Memory).app(app).start().await;
    let caller = cluster.caller("4");
    let fan = |events: usize, channels: usize| {
        let channels: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
        (0..events).map(|_| json!({ "name": "e", "channels": channels, "data": "" })).collect::<Value>()
    };
    for (events, channels) in [(20, 1), (4, 5), (1, 20)] {
        caller.post_batch(fan(events, channels)).await.expect_ok();
    }
    for (events, channels) in [(21, 1), (3, 7), (1, 21)] {
        caller.post_batch(fan(events, channels)).await.expect_error(400, "limit_exceeded");
    }
}

/// The default limit: a batch of 1,000 publications runs as one step, one of
/// 1,001 is refused.
#[tokio::test]
async fn batch_of_a_thousand_publications_is_accepted() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("2");
    let channels: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    let mut batch: Value =
        (0..10).map(|_| json!({ "name": "e", "channels": channels, "data": "" })).collect();
    let mut listener = cluster.first().browser("key2").await;
    listener.subscribe("c99").await;
    caller.post_batch(batch.clone()).await.expect_ok();
    for _ in 0..10 {
        listener.expect_event("c99", "e").await;
    }
    batch.as_array_mut().unwrap().push(json!({ "name": "e", "channel": "c0", "data": "" }));
    caller.post_batch(batch).await.expect_error(400, "limit_exceeded");
}

/// Publishers on both nodes concurrently: every subscriber receives the same order,
/// and the events of a batch together.
async fn concurrent_batches_are_not_interleaved(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut listeners = cluster.subscribers(&["news"]).await.0;
    let mut rng = Seed::new().rng();
    let lengths: Vec<usize> = (0..80).map(|_| rng.random_range(1..=10)).collect();
    let publish = |publisher: usize| {
        let server = if publisher.is_multiple_of(2) { cluster.first() } else { cluster.second() };
        let (caller, lengths) = (server.caller("1"), &lengths);
        async move {
            for (batch, length) in lengths.iter().enumerate().filter(|(batch, _)| batch % 4 == publisher) {
                let data = |number: usize| format!("{batch}.{number}.{length}");
                let event = |number| json!({ "name": "e", "channel": "news", "data": data(number) });
                caller.post_batch((0..*length).map(event).collect()).await.expect_ok();
            }
        }
    };
    tokio::join!(publish(0), publish(1), publish(2), publish(3));

    let mut orders = Vec::new();
    for listener in &mut listeners {
        let mut order = Vec::new();
        for _ in 0..lengths.iter().sum::<usize>() {
            order.push(listener.expect_event("news", "e").await.data_text().to_owned());
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1], "one order for all");
    let mut rest = orders[0].iter();
    while let Some(first) = rest.next() {
        let parts: Vec<usize> = first.split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(parts[1], 0, "a batch begins in the middle: {first}");
        for number in 1..parts[2] {
            assert_eq!(rest.next(), Some(&format!("{}.{number}.{}", parts[0], parts[2])));
        }
    }
}
