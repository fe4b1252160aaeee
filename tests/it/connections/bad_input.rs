//! Invalid input: each is refused with the right error, no other
//! client is affected, and the server keeps running.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::browser::Incoming;
use crate::support::{Backend, Cluster, STEP_TIMEOUT, Seed, Server};

const EVENT: &str = r#"{"name":"e","channel":"news","data":"x"}"#;

// --- over HTTP ------------------------------------------------------------------

#[tokio::test]
async fn malformed_body_is_refused_and_publishes_nothing() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" ".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        b"[]".to_vec(),
        b"not json".to_vec(),
        b"{".to_vec(),
        b"{}{}".to_vec(),
        EVENT.as_bytes()[..EVENT.len() - 1].to_vec(),
        [EVENT, "x"].concat().into_bytes(),
        [EVENT, EVENT].concat().into_bytes(),
        ["\u{feff}\u{feff}", EVENT].concat().into_bytes(),
        EVENT.replace('"', "'").into_bytes(),
        EVENT.replace("\"x\"", "NaN").into_bytes(),
        EVENT.replace("\"x\"", "01").into_bytes(),
        EVENT.replace("\"x\"", "\"\\x\"").into_bytes(),
        EVENT.replace("\"x\"", "\"a\nb\"").into_bytes(),
        // Half a surrogate pair is not text: no client could keep it as a base.
        EVENT.replace("\"x\"", r#""\ud800""#).into_bytes(),
        [EVENT.as_bytes(), b"\xff"].concat(),
        EVENT.bytes().map(|byte| if byte == b'x' { 0xff } else { byte }).collect(),
        b"name=e&channel=news&data=x".to_vec(),
        vec![0; 100],
    ];
    for body in bodies {
        let what = String::from_utf8_lossy(&body).into_owned();
        for path in ["/events", "/batch_events"] {
            let answer = caller.request("POST", path).body(body.clone()).send().await;
            assert_eq!(answer.status, 400, "{path} {what:?}: {}", answer.text());
            answer.expect_error(400, "invalid_input").without_index();
        }
        subscribers.expect_nothing(&caller, "news", &what).await;
    }
}

#[tokio::test]
async fn damaged_body_is_accepted_or_refused_without_server_error() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let mut rng = Seed::new().rng();
    let batch = json!({ "batch": [
        { "name": "e", "channel": "news", "data": { "a": [1, 2.5, "ü"] }, "tags": { "a": "b" } },
        { "name": "e", "channels": ["news", "private-a"], "data": "x", "info": "subscription_count",
          "socket_id": "1.2", "delta": false, "idempotency_key": "k" },
    ]});
    for _ in 0..500 {
        let body = damage(batch.to_string().as_bytes(), &mut rng);
        let what = String::from_utf8_lossy(&body).into_owned();
        let answer = caller.request("POST", "/batch_events").body(body).send().await;
        match answer.status {
            200 => drop(answer.expect_ok()),
            status @ (400 | 413 | 422) => drop(answer.expect_refused(status)),
            other => panic!("{other} for {what}: {}", answer.text()),
        }
    }
    caller.publish("news", "e", "").await;
}

/// Changes, removes, doubles or adds a few bytes.
fn damage(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        // One byte remains, so that the next step has one to damage.
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 if bytes.len() > 1 => drop(bytes.remove(at)),
            1 | 2 => bytes.insert(at, b"{}[]\",:\\\0 0-"[rng.random_range(0..12)]),
            3 => bytes.truncate(at.max(1)),
            _ => {
                let end = rng.random_range(at..bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = rng.random_range(0..bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}

#[tokio::test]
async fn non_http_input_closes_only_its_own_connection() {
    let server = Server::builder().start().await;
    let mut rng = Seed::new().rng();
    let random: Vec<u8> = (0..4096).map(|_| rng.random()).collect();
    let many = (0..2_000).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
    let inputs: Vec<Vec<u8>> = vec![
        b"\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /live HTTP/9.9\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        format!("GET /live HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        format!("GET /live HTTP/1.1\r\nhost: a\r\n{many}\r\n").into_bytes(),
        b"POST /apps/1/events HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n".to_vec(),
        b"POST /apps/1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        random,
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(&input).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(STEP_TIMEOUT, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "no end after {:?}", String::from_utf8_lossy(&input[..input.len().min(80)]));
        assert_eq!(server.get("/live").await.status, 200);
    }
}

#[tokio::test]
async fn invalid_utf8_in_url_is_refused_in_json() {
    let server = Server::builder().start().await;
    for path in [
        "/%FF",
        "/apps/%FF/channels/news",
        "/apps/1/channels/%FF",
        "/apps/1/channels/news?%FF=%FF",
        "/apps/1/channels/news?auth_key=%FF&auth_timestamp=%FF&auth_version=1.0&auth_signature=%FF",
        "/apps/1/channels/news?%",
        "/apps/1/channels/news?&&==&%zz",
        "/apps/%00/channels/news",
    ] {
        let answer = server.get(path).await;
        assert!([400, 401, 404].contains(&answer.status), "{path}: {}", answer.text());
        answer.expect_refused(answer.status);
    }
    for path in
        ["/app/%FF?protocol=7", "/app/%00", "/app/key1?protocol=%FF", "/app/key1?%FF=%FF&protocol=9999999999"]
    {
        match server.try_connect(path).await {
            Err(refusal) => assert!([400, 404].contains(&refusal.status), "{path}: {}", refusal.text()),
            Ok(mut browser) => {
                let code = browser.closed().await;
                assert!([4001, 4006, 4007].contains(&code), "{path}: {code}");
            }
        }
    }
}

// --- over WebSocket ---------------------------------------------------------------

#[tokio::test]
async fn invalid_frame_is_answered_with_error_and_socket_stays_open() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    let long = format!(r#"{{"event":"pusher:{}","data":{{}}}}"#, "x".repeat(20_000));
    for text in [
        "",
        " ",
        "not json",
        "{",
        "7",
        "null",
        "[]",
        "\"pusher:ping\"",
        "{}",
        r#"{"data":{}}"#,
        r#"{"event":null}"#,
        r#"{"event":7,"data":{}}"#,
        r#"{"event":"","data":{}}"#,
        r#"{"event":"pusher:ping","data":{}} x"#,
        r#"{"event":"pusher:ping","data":{}"#,
        r#"{"event":"pusher:nonsense","data":{}}"#,
        r#"{"event":"pusher:","data":{}}"#,
        r#"{"event":"pusher:subscribe"}"#,
        r#"{"event":"pusher:subscribe","data":null}"#,
        r#"{"event":"pusher:subscribe","data":7}"#,
        r#"{"event":"pusher:subscribe","data":[]}"#,
        r#"{"event":"pusher:subscribe","data":{}}"#,
        r#"{"event":"pusher:subscribe","data":""}"#,
        r#"{"event":"pusher:subscribe","data":"news"}"#,
        r#"{"event":"pusher:subscribe","data":"7"}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":null}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":7}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":["news"]}}"#,
        r#"{"event":"pusher:subscribe","data":"\ud83d"}"#,
        "42[1]",
        r#"0{"sid":"x"}"#,
        "[]",
        r#"{"event":"pusher:unsubscribe"}"#,
        r#"{"event":"pusher:unsubscribe","data":{}}"#,
        r#"{"event":"pusher:unsubscribe","data":{"channel":7}}"#,
        &long,
    ] {
        browser.send_text(text).await;
        let message = browser.expect_error().await;
        assert!(!message.contains("secret1"), "{message}");
    }
    browser.subscribe("news").await;
}

#[tokio::test]
async fn binary_frame_is_answered_with_error_and_socket_stays_open() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    for bytes in [&b""[..], br#"{"event":"pusher:ping","data":{}}"#, &[0xff; 1000]] {
        browser.send_message(Message::binary(bytes.to_vec())).await;
        browser.expect_error().await;
    }
    browser.subscribe("news").await;
}

#[tokio::test]
async fn fragmented_message_is_reassembled_within_size_limit() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    let text = json!({ "event": "pusher:subscribe", "data": { "channel": "news" } }).to_string();
    let (first, rest) = text.split_at(10);
    let (second, third) = rest.split_at(10);
    for (part, code, is_final) in
        [(first, Data::Text, false), (second, Data::Continue, false), (third, Data::Continue, true)]
    {
        browser.send_message(fragment(part, code, is_final)).await;
    }
    browser.confirmed("news").await;

    // Small fragments do not bypass the message size limit.
    let part = "x".repeat(16 * 1024);
    let mut is_refused = browser.try_send_message(fragment(&part, Data::Text, false)).await.is_err();
    for _ in 0..5 {
        is_refused |= browser.try_send_message(fragment(&part, Data::Continue, false)).await.is_err();
    }
    assert!(browser.closed().await == 1009 || is_refused);
}

fn fragment(text: &str, code: Data, is_final: bool) -> Message {
    Message::Frame(Frame::message(text.to_owned(), OpCode::Data(code), is_final))
}

#[tokio::test]
async fn invalid_utf8_frame_closes_only_its_own_socket() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    for bytes in [&b"\xff\xfe"[..], b"{\"event\":\"\xc3\x28\"}", b"{\"event\":\"pusher:ping\"}\x80"] {
        let mut browser = cluster.first().browser("key1").await;
        let frame = Frame::message(bytes.to_vec(), OpCode::Data(Data::Text), true);
        browser.send_message(Message::Frame(frame)).await;
        match browser.incoming().await {
            Incoming::Closed(1007) => {}
            Incoming::Frame(frame) if frame.event == "pusher:error" => {}
            other => panic!("{other:?}"),
        }
        cluster.caller("1").publish("news", "e", "").await;
        subscribers.expect_event("news", "e").await;
    }
}

/// Nesting depth is limited before any recursion: 20 KB of brackets cause an error,
/// or at most the end of their own connection.
#[tokio::test]
async fn deeply_nested_json_closes_at_most_its_own_connection() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    let closed = [open.as_str(), &close].concat();
    let objects = r#"{"a":"#.repeat(4_000);
    for text in [
        "[".repeat(20_000),
        closed.clone(),
        objects.clone(),
        format!(r#"{{"event":"pusher:subscribe","data":{closed}}}"#),
        format!(r#"{{"event":"pusher:subscribe","data":{{"channel":{closed}}}}}"#),
        format!(r#"{{"event":"pusher:subscribe","data":{objects}"#),
        json!({ "event": "pusher:subscribe", "data": closed }).to_string(),
        json!({ "event": "pusher:subscribe", "data": objects }).to_string(),
    ] {
        let mut browser = cluster.first().browser("key1").await;
        browser.send_text(&text).await;
        match browser.incoming().await {
            Incoming::Closed(_) => {}
            Incoming::Frame(frame) if frame.event == "pusher:error" => browser.settle().await,
            other => panic!("{}…: {other:?}", &text[..60]),
        }
        cluster.caller("1").publish("news", "e", "").await;
        subscribers.expect_event("news", "e").await;
    }
}

#[tokio::test]
async fn damaged_frame_does_not_affect_other_sockets() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut rng = Seed::new().rng();
    let frames = [
        json!({ "event": "pusher:subscribe", "data": { "channel": "private-a", "auth": "key1:00" } }),
        json!({ "event": "pusher:subscribe", "data": { "channel": "olds", "delta": { "enabled": true } } }),
        json!({ "event": "pusher:unsubscribe", "data": "{\"channel\":\"olds\"}" }),
        json!({ "event": "pusher:enable_delta_compression", "data": { "algorithms": ["fossil"] } }),
        json!({ "event": "client-a", "channel": "private-a", "data": { "a": [1, "ü"] } }),
        json!({ "event": "pusher:signin", "data": { "auth": "key1:00", "user_data": [] } }),
        json!({ "event": "pusher:subscribe", "data": { "channel": "presence-a", "channel_data": "{}" } }),
        json!({ "event": "pusher:ping", "data": {} }),
    ];
    for _ in 0..20 {
        let mut browser = cluster.first().browser("key1").await;
        for _ in 0..20 {
            let frame = frames[rng.random_range(0..frames.len())].to_string();
            let text = String::from_utf8_lossy(&damage(frame.as_bytes(), &mut rng)).into_owned();
            browser.send_text(&text).await;
        }
        // Each frame was answered or ignored, and the server still handles the
        // socket.
        browser.settle().await;
        cluster.caller("1").publish("news", "e", "").await;
        subscribers.expect_event("news", "e").await;
    }
}

/// A refused frame is never counted as a subscription.
#[tokio::test]
async fn refused_subscriptions_are_not_counted() {
    let cluster = Cluster::start(Backend::Memory).await;
    let mut browser = cluster.first().browser("key1").await;
    let refused: [Value; 3] =
        [json!({ "channel": "private-a" }), json!({ "channel": "a b" }), json!({ "channel": "presence-a" })];
    for data in refused {
        let channel = data["channel"].as_str().unwrap().to_owned();
        browser.subscribe_raw(data).await;
        browser.expect_subscription_error(&channel).await;
    }
    assert_eq!(cluster.caller("1").subscription_count("private-a").await, 0);
}
