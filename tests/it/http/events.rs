//! `POST /apps/{id}/events` (protocol.md 1.3): one event, to one channel or
//! several.

use serde_json::{Value, json};

use crate::support::{Backend, Cluster, Seed, Server, invalid_events, on_both_backends};

on_both_backends![
    event_reaches_its_channel_on_every_node,
    event_reaches_all_named_channels,
    channel_named_twice_receives_event_once,
    non_string_data_is_delivered_as_json_text,
    envelope_equals_pushers_byte_for_byte,
    excluded_socket_receives_nothing_on_any_node,
    info_counts_subscriptions_of_all_nodes,
    unsupported_info_attribute_is_omitted,
    invalid_event_is_refused_and_not_published,
    event_stays_within_its_app,
];

async fn event_reaches_its_channel_on_every_node(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut elsewhere = cluster.subscribers(&["sport"]).await;
    let caller = cluster.caller("1");

    let answer = caller.post_events(json!({ "name": "hello", "channel": "news", "data": "x" })).await;

    assert_eq!(answer.expect_ok(), json!({}));
    assert_eq!(subscribers.expect_event("news", "hello").await.data_text(), "x");
    elsewhere.expect_nothing(&caller, "sport", "the event was for another channel").await;
}

async fn event_reaches_all_named_channels(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut a = cluster.subscribers(&["a"]).await;
    let mut b = cluster.subscribers(&["b"]).await;
    let mut c = cluster.subscribers(&["c"]).await;

    caller.post_events(json!({ "name": "one", "channels": ["a", "b"], "data": "1" })).await.expect_ok();
    // No named channel is silently dropped, whichever member names it.
    let both = json!({ "name": "two", "channel": "c", "channels": ["a"], "data": "2" });
    caller.post_events(both).await.expect_ok();

    a.expect_event("a", "one").await;
    a.expect_event("a", "two").await;
    b.expect_event("b", "one").await;
    c.expect_event("c", "two").await;
    b.expect_nothing(&caller, "b", "the second event was not for b").await;
}

async fn channel_named_twice_receives_event_once(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["a"]).await;

    let event = json!({ "name": "once", "channel": "a", "channels": ["a", "b", "a"], "data": "x" });
    caller.post_events(event).await.expect_ok();

    subscribers.expect_event("a", "once").await;
    subscribers.expect_nothing(&caller, "a", "the event arrived once").await;
}

async fn non_string_data_is_delivered_as_json_text(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    // Numbers keep their digits: 1.0 stays 1.0, and none is parsed as a float.
    let texts =
        [r#"{"a":1.0,"b":[123456789012345678901234567890,1e2]}"#, "[1,2]", "7", "true", r#"{"ü":"\u00e9"}"#];
    for text in texts {
        let body = format!(r#"{{"name":"e","channel":"news","data":{text}}}"#);
        caller.request("POST", "/events").body(body).send().await.expect_ok();
        assert_eq!(subscribers.expect_event("news", "e").await.data_text(), text);
    }
}

async fn envelope_equals_pushers_byte_for_byte(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    // The JSON text of a string, both as sent and as it must arrive.
    let strings = [
        r#""""#,
        r#""plain""#,
        r#""{\"asset\":\"BTC\",\"p\":1}""#,
        r#""a \\ b \n c \t d / e""#,
        r#""žluťoučký kůň, 語, 🎺""#,
        r#""ends with a quote\"""#,
    ];
    for string in strings {
        let body = format!(r#"{{"name":"price-update","channel":"news","data":{string}}}"#);
        caller.request("POST", "/events").body(body).send().await.expect_ok();
        let frame = subscribers.expect_event("news", "price-update").await;
        assert_eq!(frame.text, format!(r#"{{"event":"price-update","channel":"news","data":{string}}}"#));
    }
    // Names may contain any characters and arrive JSON-escaped.
    caller.publish("news", "a \"b\" \\ ü", "x").await;
    let frame = subscribers.expect_event("news", "a \"b\" \\ ü").await;
    assert_eq!(frame.text, r#"{"event":"a \"b\" \\ ü","channel":"news","data":"x"}"#);
}

async fn excluded_socket_receives_nothing_on_any_node(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut listeners = cluster.subscribers(&["news"]).await.0;

    // Published on the first node: exclusion of its own socket, and of the other
    // node's.
    for excluded in 0..listeners.len() {
        let socket_id = listeners[excluded].socket_id().to_owned();
        let event = json!({ "name": "e", "channel": "news", "data": "x", "socket_id": socket_id });
        caller.post_events(event).await.expect_ok();
        caller.publish("news", "marker", "").await;
        for (number, browser) in listeners.iter_mut().enumerate() {
            if number != excluded {
                browser.expect_event("news", "e").await;
            }
            browser.expect_nothing_before("news", "marker").await;
        }
    }

    // An unknown socket id excludes no socket.
    let event = json!({ "name": "e", "channel": "news", "data": "x", "socket_id": "1.1" });
    caller.post_events(event).await.expect_ok();
    for browser in &mut listeners {
        browser.expect_event("news", "e").await;
    }
}

async fn info_counts_subscriptions_of_all_nodes(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let _subscribers = cluster.subscribers(&["a", "b"]).await;
    let _more = cluster.subscribers(&["b"]).await;

    let event = json!({
        "name": "e", "channels": ["a", "b", "empty"], "data": "x", "info": "subscription_count",
    });
    let expected = json!({ "channels": {
        "a": { "subscription_count": 2 },
        "b": { "subscription_count": 4 },
        "empty": { "subscription_count": 0 },
    }});
    assert_eq!(caller.post_events(event).await.expect_ok(), expected);
}

async fn unsupported_info_attribute_is_omitted(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let _subscribers = cluster.subscribers(&["a"]).await;
    let post_with_info = async |info: &str| {
        let event = json!({ "name": "e", "channels": ["a", "b"], "data": "x", "info": info });
        caller.post_events(event).await.expect_ok()
    };
    // Every channel is listed, with an empty object.
    let nothing = json!({ "channels": { "a": {}, "b": {} } });
    assert_eq!(post_with_info("user_count").await, nothing);
    assert_eq!(post_with_info("weather").await, nothing);
    let mixed = post_with_info("user_count,subscription_count,weather").await;
    assert_eq!(
        mixed["channels"],
        json!({ "a": { "subscription_count": 2 }, "b": { "subscription_count": 0 } })
    );
}

async fn invalid_event_is_refused_and_not_published(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    for invalid in invalid_events() {
        let answer = caller.post_events(invalid.event.clone()).await;
        invalid.expect_refusal(&answer).without_index();
        subscribers.expect_nothing(&caller, "news", invalid.what).await;
    }
}

async fn event_stays_within_its_app(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut ours = cluster.first().browser("key1").await;
    let mut theirs = cluster.second().browser("key2").await;
    ours.subscribe("news").await;
    theirs.subscribe("news").await;

    cluster.caller("1").publish("news", "ours", "").await;
    cluster.caller("2").publish("news", "theirs", "").await;

    ours.expect_event("news", "ours").await;
    theirs.expect_event("news", "theirs").await;
    assert_eq!(cluster.caller("1").subscription_count("news").await, 1);
}

#[tokio::test]
async fn event_options_are_accepted_and_unknown_fields_ignored() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let options = [
        json!({ "tags": { "a": "b", "": "" } }),
        json!({ "tags": {} }),
        json!({ "delta": false }),
        json!({ "delta": true }),
        json!({ "info": "" }),
        json!({ "idempotency_key": "k".repeat(128) }),
        json!({ "message_id": "m", "extras": { "deep": [1, { "er": null }] }, "nonsense": 7 }),
        json!({ "socket_id": "18446744073709551615.99999999999999999999" }),
    ];
    for option in options {
        let mut event = json!({ "name": "e", "channel": "news", "data": "x" });
        event.as_object_mut().unwrap().append(&mut option.as_object().unwrap().clone());
        let answer = cluster.caller("1").post_events(event).await;
        assert_eq!(answer.status, 200, "{option}: {}", answer.text());
        // The plain envelope contains none of them.
        let frame = subscribers.expect_event("news", "e").await;
        assert_eq!(frame.text, r#"{"event":"e","channel":"news","data":"x"}"#);
    }
}

#[tokio::test]
async fn any_content_type_is_accepted_and_content_encoding_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let event: Value = json!({ "name": "e", "channel": "news", "data": "x" });
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "?"] {
        caller.events(&event).header("content-type", kind).send().await.expect_ok();
    }
    caller.events(&event).without_header("content-type").send().await.expect_ok();
    caller.events(&event).header("content-encoding", "identity").send().await.expect_ok();
    for encoding in ["gzip", "br", "deflate"] {
        let answer = caller.events(&event).header("content-encoding", encoding).send().await;
        answer.expect_refused(415);
    }
}

#[tokio::test]
async fn http_connection_serves_many_requests() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for _ in 0..20 {
        caller.publish("news", "e", "x").await;
        caller.post_events(json!({})).await.expect_refused(400);
        caller.events(&json!({})).secret("wrong").send().await.expect_refused(401);
        caller.request("GET", "/nothing").send().await.expect_refused(404);
        caller.get("/channels/news", &[]).await.expect_ok();
    }
    assert_eq!(caller.connections_opened(), 1, "refusals keep the connection alive as well");
}

#[tokio::test]
async fn body_in_arbitrary_chunks_is_accepted() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let data = "žluťoučký kůň 🎺 ".repeat(20);
    let event = json!({ "name": "e", "channel": "news", "data": data });
    for lengths in [&[1][..], &[1, 2, 3, 5, 7], &[100, 1], &[4096]] {
        caller.events(&event).in_chunks(lengths).send().await.expect_ok();
        assert_eq!(subscribers.expect_event("news", "e").await.data_text(), data);
        caller.events(&event).send_in_pieces(lengths).await.expect_ok();
        assert_eq!(subscribers.expect_event("news", "e").await.data_text(), data);
    }
}

#[tokio::test]
async fn truncated_request_publishes_nothing() {
    use tokio::io::AsyncWriteExt;
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let whole = caller.events(&json!({ "name": "half", "channel": "news", "data": "x" })).bytes();
    for length in [1, 10, whole.len() / 2, whole.len() - 1] {
        let mut stream = tokio::net::TcpStream::connect(cluster.first().addr()).await.unwrap();
        stream.write_all(&whole[..length]).await.unwrap();
        drop(stream);
        subscribers.expect_nothing(&caller, "news", "the connection ended half-way").await;
    }
}

#[tokio::test]
async fn payloads_of_all_sizes_arrive_complete() {
    use rand::RngExt;
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut rng = Seed::new().rng();
    // Lengths at which the encoding of a length changes, on WebSocket and in Redis.
    let edges = [0, 1, 60, 80, 90, 100, 124, 125, 126, 127, 1023, 1024, 4096, 10 * 1024 - 1, 10 * 1024];
    let random = (0..50).map(|_| rng.random_range(0..10 * 1024)).collect::<Vec<usize>>();
    for length in edges.into_iter().chain(random) {
        let data: String = (0..length).map(|_| char::from(rng.random_range(b' '..=b'~'))).collect();
        caller.publish("news", "e", &data).await;
        assert_eq!(subscribers.expect_event("news", "e").await.data_text(), data);
    }
}
