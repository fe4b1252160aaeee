//! One below, at, and one above the limit, for each row of `src/limits.rs` that a
//! client can reach.

use fanfare::limits;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::resp::Reply;
use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![batch_bytes_are_limited_over_all_channels];

/// Publishes the `accepted` events, which must return 200, and the `refused` ones,
/// which must not reach the channel `news`.
async fn check(accepted: Vec<Value>, refused: Vec<Value>, status: u16, field: &str) {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    for event in accepted {
        let answer = caller.post_events(event).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let mut subscribers = cluster.subscribers(&["news"]).await;
    for event in refused {
        caller.post_events(event).await.expect_refused(status).of_field(field);
        subscribers.expect_nothing(&caller, "news", field).await;
    }
}

#[tokio::test]
async fn event_name_length_is_limited() {
    let named = |name: String| json!({ "name": name, "channel": "news", "data": "" });
    let max = limits::EVENT_NAME_CHARS_MAX;
    // Characters, not bytes.
    let accepted = [1, max - 1, max].into_iter().flat_map(|n| [named("n".repeat(n)), named("語".repeat(n))]);
    let refused = vec![named("n".repeat(max + 1)), named("語".repeat(max + 1)), named(String::new())];
    check(accepted.collect(), refused, 400, "name").await;
}

#[tokio::test]
async fn channel_name_length_is_limited() {
    let on = |channel: String| json!({ "name": "e", "channel": channel, "data": "" });
    let max = limits::CHANNEL_NAME_CHARS_MAX;
    let accepted = [1, max - 1, max].into_iter().map(|length| on("c".repeat(length)));
    check(accepted.collect(), vec![on("c".repeat(max + 1))], 400, "channel").await;

    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    browser.subscribe(&"c".repeat(max)).await;
    browser.subscribe_raw(json!({ "channel": "c".repeat(max + 1) })).await;
    browser.expect_subscription_error(&"c".repeat(max + 1)).await;
}

#[tokio::test]
async fn payload_size_is_limited() {
    let with = |data: Value| json!({ "name": "e", "channel": "news", "data": data });
    let max = limits::PAYLOAD_BYTES_MAX;
    let text = |length: usize| "x".repeat(length);
    // Bytes of the string, or of the JSON text: `{"a":"…"}` adds 8.
    let accepted = vec![
        with(text(max - 1).into()),
        with(text(max).into()),
        with("é".repeat(max / 2).into()),
        with("\0".repeat(max).into()),
        with("\"".repeat(max).into()),
        with(json!({ "a": text(max - 8) })),
    ];
    let refused = vec![
        with(text(max + 1).into()),
        with("é".repeat(max / 2 + 1).into()),
        with("\0".repeat(max + 1).into()),
        with(json!({ "a": text(max - 7) })),
        with(text(2 * max).into()),
    ];
    check(accepted, refused, 413, "data").await;
}

#[tokio::test]
async fn channels_per_event_are_limited() {
    let to = |count: usize| {
        let channels: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
        json!({ "name": "e", "channels": channels, "data": "" })
    };
    let max = limits::EVENT_CHANNELS_MAX;
    check(vec![to(1), to(max - 1), to(max)], vec![to(max + 1), to(10 * max)], 400, "channels").await;
}

#[tokio::test]
async fn idempotency_key_length_is_limited() {
    let with =
        |length| json!({ "name": "e", "channel": "news", "data": "", "idempotency_key": "k".repeat(length) });
    let max = limits::IDEMPOTENCY_KEY_CHARS_MAX;
    let accepted = vec![with(1), with(max - 1), with(max)];
    check(accepted, vec![with(max + 1), with(0)], 400, "idempotency_key").await;
}

#[tokio::test]
async fn tags_size_is_limited() {
    let with =
        |length| json!({ "name": "e", "channel": "news", "data": "", "tags": { "key": "v".repeat(length) } });
    let max = limits::TAGS_BYTES_MAX - "key".len();
    check(vec![with(max - 1), with(max)], vec![with(max + 1)], 413, "tags").await;
}

/// The other limits are settings of each app.
#[tokio::test]
async fn app_settings_override_default_limits() {
    let app = AppSpec::new("4")
        .set("max_event_batch_size", 2)
        .set("max_event_payload_in_kb", 1)
        .set("max_event_channels_at_once", 2)
        .set("max_event_name_length", 5)
        .set("max_channel_name_length", 6);
    let server = Server::builder().app(app).start().await;
    let caller = server.caller("4");
    let event = |name: &str, channels: &[&str], length: usize| json!({ "name": name, "channels": channels, "data": "x".repeat(length) });
    let largest = || event("five5", &["six666", "two"], 1024);
    caller.post_events(largest()).await.expect_ok();
    caller.post_batch(json!([largest(), largest()])).await.expect_ok();

    caller.post_batch(json!([largest(), largest(), largest()])).await.expect_error(400, "limit_exceeded");
    for (event, status, field) in [
        (event("sixsix", &["a"], 1), 400, "name"),
        (event("e", &["seven77"], 1), 400, "channels"),
        (event("e", &["a", "b", "c"], 1), 400, "channels"),
        (event("e", &["a"], 1025), 413, "data"),
    ] {
        caller.post_events(event).await.expect_refused(status).of_field(field);
    }
    let mut browser = server.browser("key4").await;
    browser.subscribe("six666").await;
    browser.subscribe_raw(json!({ "channel": "seven77" })).await;
    browser.expect_subscription_error("seven77").await;
    let path = "/channels/seven77";
    caller.get(path, &[]).await.expect_refused(400).of_field("channel");
}

/// The body limit follows from the app's limits: the largest batch fits.
#[tokio::test]
async fn largest_batch_fits_body_limit() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    // With more channels, the batch would exceed the limit over all channels.
    let channels: Vec<String> = (0..10).map(|n| format!("{}{n:03}", "c".repeat(197))).collect();
    // `\u0000` takes six bytes in the body for one of the payload.
    let event = json!({
        "name": "\0".repeat(200),
        "channels": channels,
        "data": "\0".repeat(limits::PAYLOAD_BYTES_MAX),
        "tags": { "key": "\0".repeat(limits::TAGS_BYTES_MAX - 3) },
        "idempotency_key": "\0".repeat(128),
    });
    let mut listener = cluster.first().browser("key1").await;
    listener.subscribe(&channels[9]).await;
    caller.post_batch(vec![event; 10].into()).await.expect_ok();
    for _ in 0..10 {
        let frame = listener.expect_event(&channels[9], &"\0".repeat(200)).await;
        assert_eq!(frame.data_text(), "\0".repeat(limits::PAYLOAD_BYTES_MAX));
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// An event that counts with `bytes` on each of its channels.
fn sized(channels: &[String], bytes: usize) -> Value {
    json!({ "name": "e", "channels": channels, "data": "x".repeat(bytes - "e".len()) })
}

async fn batch_bytes_are_limited_over_all_channels(backend: Backend) {
    let app = AppSpec::new("1").set("max_event_payload_in_kb", 170);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut channels = names("c", 63);
    channels.push("news".into());
    let mut batch = vec![sized(&channels, limits::BATCH_BYTES_MAX / 64 / 8); 8];
    caller.post_batch(batch.clone().into()).await.expect_ok();
    for _ in 0..8 {
        subscribers.expect_event("news", "e").await;
    }
    // One byte more, in all.
    batch.push(sized(&["news".to_owned()], 1));
    let refusal = caller.post_batch(batch.into()).await.expect_error(413, "payload_too_large");
    refusal.without_index().of_field("batch");
    subscribers.expect_nothing(&caller, "news", "the batch was too large").await;

    let channels = &channels[32..];
    caller.post_events(sized(channels, limits::BATCH_BYTES_MAX / 32)).await.expect_ok();
    subscribers.expect_event("news", "e").await;
    let answer = caller.post_events(sized(channels, limits::BATCH_BYTES_MAX / 32 + 1)).await;
    answer.expect_error(413, "payload_too_large").of_field("data");
    subscribers.expect_nothing(&caller, "news", "the event was too large").await;
}

/// The largest batch, with its cached events and initial bases. It blocks Redis for about 0.08 s
/// of CPU time (docs/guides/limits.md); the bound here leaves room for a busy machine.
#[tokio::test]
async fn largest_batch_does_not_block_redis() {
    let largest = limits::BATCH_PUBLICATIONS_MAX;
    let app = AppSpec::new("1").set("max_event_channels_at_once", largest);
    let config = "[delta_compression]\ncache_sync = true\n";
    let cluster = Cluster::builder(Backend::Redis).config(config).app(app).start().await;
    let (caller, redis) = (cluster.caller("1"), cluster.redis());
    caller.publish("news", "loads the script", "").await;
    redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]).await;
    redis.command(&["SLOWLOG", "RESET"]).await;
    let event = sized(&names("cache-", largest), limits::BATCH_BYTES_MAX / largest);
    caller.post_events(event).await.expect_ok();
    let Reply::Array(entries) = redis.command(&["SLOWLOG", "GET", "-1"]).await else {
        panic!("not a slow log")
    };
    let micros = entries.iter().map(|entry| match entry {
        Reply::Array(fields) => fields[2].integer(),
        other => panic!("not an entry: {other:?}"),
    });
    let micros = micros.max().expect("the batch takes more than a millisecond");
    println!("the largest batch blocks Redis for {micros} µs");
    assert!(micros < 1_000_000, "the largest batch blocks Redis for {micros} µs");
}

/// 413 while the body is still arriving, with a `Content-Length` or without.
#[tokio::test]
async fn body_size_is_limited() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let event = json!({ "name": "e", "channel": "news", "data": "" }).to_string();
    let padded = |body: &str, kilobytes: usize| body.to_owned() + &" ".repeat(kilobytes * 1024);
    let batch = format!(r#"{{"batch":[{event}]}}"#);
    // The body limit of a single event is smaller than that of a batch.
    for (path, body, accepted, refused) in [
        ("/events", &event, 100, &[300, 1_024, 16 * 1_024][..]),
        ("/batch_events", &batch, 1_024, &[4_096, 16_384]),
    ] {
        let request = |kilobytes| caller.request("POST", path).body(padded(body, kilobytes));
        request(accepted).send().await.expect_ok();
        request(accepted).in_chunks(&[64 * 1024]).send().await.expect_ok();
        for _ in 0..2 {
            subscribers.expect_event("news", "e").await;
        }
        for kilobytes in refused {
            request(*kilobytes).send().await.expect_error(413, "payload_too_large");
            request(*kilobytes).in_chunks(&[64 * 1024]).send().await.expect_error(413, "payload_too_large");
        }
        subscribers.expect_nothing(&caller, "news", "the body was too large").await;
    }
}

/// Nesting depth is limited before any recursion.
#[tokio::test]
async fn json_nesting_depth_is_limited() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"name":"e","channel":"news","data":{open}{close}}}"#)
    };
    let post = async |body: String| caller.request("POST", "/events").body(body).send().await;
    // The event's own brace counts as one level.
    let max = limits::JSON_DEPTH_MAX - 1;
    for depth in [1, max - 1, max] {
        post(deep(depth)).await.expect_ok();
    }
    for depth in [max + 1, 127, 128, 129, 5_000] {
        let answer = post(deep(depth)).await;
        assert_eq!(answer.status, 400, "depth {depth}: {}", answer.text());
        answer.expect_error(400, "invalid_input");
    }
    // In an ignored member, in a batch, and never closed.
    let brackets = "[".repeat(50_000);
    let closed = format!("{brackets}{}", "]".repeat(50_000));
    for body in [
        brackets.clone(),
        format!(r#"{{"name":"e","channel":"news","data":"","extras":{closed}}}"#),
        format!(r#"{{"name":"e","channel":"news","data":"","extras":{}}}"#, r#"{"a":"#.repeat(20_000)),
    ] {
        post(body).await.expect_error(400, "invalid_input");
    }
    for body in
        [brackets, format!(r#"{{"batch":{closed}}}"#), format!(r#"{{"batch":[{{"data":{closed}}}]}}"#)]
    {
        let answer = caller.request("POST", "/batch_events").body(body).send().await;
        answer.expect_error(400, "invalid_input");
    }
    // Brackets within a string do not count.
    let harmless = json!({ "name": "e", "channel": "news", "data": "[".repeat(5_000) });
    caller.post_events(harmless).await.expect_ok();
}

#[tokio::test]
async fn websocket_message_size_is_limited() {
    let server = Server::builder().start().await;
    let ping = |length: usize| {
        let (head, tail) = (r#"{"event":"pusher:ping","data":""#, r#""}"#);
        format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()))
    };
    let max = limits::MESSAGE_BYTES_MAX;
    let mut browser = server.browser("key1").await;
    for length in [max - 1, max] {
        browser.send_text(&ping(length)).await;
        assert_eq!(browser.next().await.event, "pusher:pong", "{length}");
    }
    for length in [max + 1, 2 * max, 1024 * 1024] {
        let mut browser = server.browser("key1").await;
        // The server may close the connection before it has received everything.
        let _ = browser.try_send_message(Message::text(ping(length))).await;
        assert_eq!(browser.closed().await, 1009, "{length}");
    }
    browser.subscribe("news").await;
}
