//! Delta subscribers and the contents of their deltas (protocol.md 3.1 to 3.7,
//! 3.10, 3.11): strictly by opt-in, always against a base that the socket has.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::delta_client::{DeltaClient, Encoding, Event};
use crate::support::{AppSpec, Backend, Browser, Caller, Cluster, Seed, Server, on_both_backends};

on_both_backends![
    full_event_is_followed_by_deltas,
    socket_without_opt_in_receives_plain_frames,
    batch_events_are_deltas_of_each_other,
    event_with_delta_false_is_full_and_next_base,
    excluded_socket_receives_full_event_next,
    new_subscriber_begins_with_full_event,
    random_events_decode_to_published_data,
];

/// Full events only where one is needed, so that tests can distinguish them.
const NO_INTERVAL: &str = "[delta_compression]\nfull_message_interval = 0";

async fn cluster(backend: Backend) -> Cluster {
    Cluster::builder(backend).config(NO_INTERVAL).start().await
}

async fn server() -> Server {
    Server::builder().config(NO_INTERVAL).start().await
}

/// A payload that is worth a delta: long, and mostly unchanged.
fn text(number: usize) -> String {
    json!({ "number": number, "same": "all the same ".repeat(30) }).to_string()
}

/// A browser with deltas, and its bases.
struct Reader {
    browser: Browser,
    client: DeltaClient,
}

impl Reader {
    async fn on(server: &Server, channel: &str) -> Reader {
        let mut browser = server.browser("key1").await;
        opt_in(&mut browser, json!({})).await;
        browser.subscribe(channel).await;
        Reader { browser, client: DeltaClient::default() }
    }

    async fn next(&mut self) -> Event {
        let frame = self.browser.next().await;
        self.client.read(&frame)
    }

    /// The next event, which must have this text and this encoding.
    async fn expect(&mut self, encoding: Encoding, published: &str) {
        let event = self.next().await;
        assert_eq!((event.encoding, event.published()), (encoding, published));
    }
}

impl Reader {
    /// Publishes until the server has applied an opt-in or a sync error, which no
    /// frame confirms: until then the encoding is `before`. Returns the number of
    /// the full event.
    async fn publish_until_full(&mut self, caller: &Caller, before: Encoding) -> usize {
        for number in 100..200 {
            publish(caller, number).await;
            let frame = self.browser.next().await;
            if frame.event == "pusher:delta" {
                // A client without a base drops it.
                assert_eq!(before, Encoding::Delta, "{}", frame.text);
                continue;
            }
            let event = self.client.read(&frame);
            assert_eq!(event.published(), text(number));
            if event.encoding == Encoding::Full {
                return number;
            }
            assert_eq!(event.encoding, before);
        }
        panic!("no full event among a hundred");
    }
}

/// The global opt-in, and its confirmation.
async fn opt_in(browser: &mut Browser, data: Value) -> Value {
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": data })).await;
    let frame = browser.next().await;
    assert_eq!((frame.event.as_str(), frame.channel), ("pusher:delta_compression_enabled", None));
    frame.data
}

async fn publish(caller: &Caller, number: usize) {
    caller.publish("news", "e", &text(number)).await;
}

async fn full_event_is_followed_by_deltas(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut readers = [Reader::on(cluster.first(), "news").await, Reader::on(cluster.second(), "news").await];
    for number in 0..20 {
        publish(&caller, number).await;
        for reader in &mut readers {
            let encoding = if number == 0 { Encoding::Full } else { Encoding::Delta };
            reader.expect(encoding, &text(number)).await;
        }
    }
}

async fn socket_without_opt_in_receives_plain_frames(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut reader = Reader::on(cluster.second(), "news").await;
    let mut plain = cluster.second().browser("key1").await;
    plain.subscribe("news").await;
    for number in 0..5 {
        publish(&caller, number).await;
        let data = Value::from(text(number));
        let expected = format!(r#"{{"event":"e","channel":"news","data":{data}}}"#);
        assert_eq!(plain.expect_event("news", "e").await.text, expected);
        reader.next().await;
    }
}

async fn batch_events_are_deltas_of_each_other(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut reader = Reader::on(cluster.second(), "news").await;
    // Across event names: clients keep one base per channel.
    let event = |number: usize| json!({ "name": format!("e{}", number % 3), "channel": "news", "data": text(number) });
    for round in 0..3 {
        caller.post_batch((round * 10..round * 10 + 10).map(event).collect()).await.expect_ok();
        for number in round * 10..round * 10 + 10 {
            let encoding = if number == 0 { Encoding::Full } else { Encoding::Delta };
            let event = reader.next().await;
            assert_eq!((event.encoding, event.published()), (encoding, text(number).as_str()));
            assert_eq!(event.name, format!("e{}", number % 3));
        }
    }
}

async fn event_with_delta_false_is_full_and_next_base(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut reader = Reader::on(cluster.second(), "news").await;
    for (number, encoding) in
        [Encoding::Full, Encoding::Delta, Encoding::Full, Encoding::Delta].into_iter().enumerate()
    {
        let mut event = json!({ "name": "e", "channel": "news", "data": text(number) });
        if number == 2 {
            event["delta"] = false.into();
        }
        caller.post_events(event).await.expect_ok();
        reader.expect(encoding, &text(number)).await;
    }
}

async fn excluded_socket_receives_full_event_next(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut sender = Reader::on(cluster.second(), "news").await;
    let mut other = Reader::on(cluster.second(), "news").await;
    let socket_id = sender.browser.socket_id().to_owned();
    for number in 0..12 {
        let mut event = json!({ "name": "e", "channel": "news", "data": text(number) });
        let is_excluded = number % 4 == 2;
        if is_excluded {
            event["socket_id"] = socket_id.as_str().into();
        }
        caller.post_events(event).await.expect_ok();
        if !is_excluded {
            // A full event after each excluded one, and at the start.
            let encoding = if number % 4 == 3 || number == 0 { Encoding::Full } else { Encoding::Delta };
            sender.expect(encoding, &text(number)).await;
        }
        other.expect(if number == 0 { Encoding::Full } else { Encoding::Delta }, &text(number)).await;
    }
}

async fn new_subscriber_begins_with_full_event(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let mut first = Reader::on(cluster.second(), "news").await;
    for number in 0..3 {
        publish(&caller, number).await;
        first.next().await;
    }
    let mut late = Reader::on(cluster.second(), "news").await;
    publish(&caller, 3).await;
    late.expect(Encoding::Full, &text(3)).await;
    first.expect(Encoding::Delta, &text(3)).await;
    publish(&caller, 4).await;
    late.expect(Encoding::Delta, &text(4)).await;
    first.expect(Encoding::Delta, &text(4)).await;

    // A resubscription is a new subscription.
    late.browser.unsubscribe("news").await;
    late.browser.subscribe("news").await;
    publish(&caller, 5).await;
    late.expect(Encoding::Full, &text(5)).await;
}

/// Random events, published through both nodes concurrently, some without deltas,
/// some that exclude one of the readers.
async fn random_events_decode_to_published_data(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut rng = Seed::new().rng();
    let mut readers = [
        Reader::on(cluster.first(), "news").await,
        Reader::on(cluster.second(), "news").await,
        Reader::on(cluster.second(), "news").await,
    ];
    let callers = [cluster.first().caller("1"), cluster.second().caller("1")];
    let (mut bytes_published, mut bytes_sent, mut deltas) = (0, 0, 0);
    for round in 0..60 {
        let mut expected: [Vec<String>; 3] = Default::default();
        let mut batch = Vec::new();
        for _ in 0..rng.random_range(1..=5) {
            let data = random_data(&mut rng);
            let mut event =
                json!({ "name": format!("e{}", rng.random_range(0..3)), "channel": "news", "data": data });
            if rng.random_ratio(1, 10) {
                event["delta"] = false.into();
            }
            // Numbers past the last reader exclude no socket.
            let excluded = rng.random_range(0..10_usize);
            if let Some(reader) = readers.get(excluded) {
                event["socket_id"] = reader.browser.socket_id().into();
            }
            for (_, expected) in expected.iter_mut().enumerate().filter(|(number, _)| *number != excluded) {
                expected.push(data.clone());
            }
            batch.push(event);
        }
        callers[round % 2].post_batch(batch.into()).await.expect_ok();
        for (reader, expected) in readers.iter_mut().zip(&expected) {
            for published in expected {
                let frame = reader.browser.next().await;
                let event = reader.client.read(&frame);
                assert_eq!(event.published(), published);
                bytes_published += event.text.len();
                bytes_sent += frame.text.len();
                deltas += usize::from(event.encoding == Encoding::Delta);
            }
        }
    }
    println!("{deltas} deltas; {bytes_sent} bytes sent for {bytes_published}");
    assert!(deltas > 0);
}

/// Objects that share much, some tiny, some unlike any other, some that only look
/// like JSON, some with the texts of the markers.
fn random_data(rng: &mut StdRng) -> String {
    let price = rng.random_range(0..1_000_000);
    match rng.random_range(0..10) {
        0 => "x".into(),
        1 => (0..rng.random_range(0..9_000)).map(|_| char::from(rng.random_range(b' '..=b'~'))).collect(),
        2 => json!({ "note": "\"__delta_seq\":1,", "price": price, "pad": "ž".repeat(200) }).to_string(),
        3 => json!({ "note": ",\"__conflation_key\":\"a\"", "price": price }).to_string(),
        4 => format!("{{ \"spaced\" : [ {price} , 1.0 , 1e5 ] , \"pad\" : \"{}\" }}", "y".repeat(300)),
        5 => format!("{{not json {price} {}", "z".repeat(300)),
        _ => json!({ "asset": "BTC", "price": price, "pad": "čeština 語 🎺 ".repeat(20) }).to_string(),
    }
}

#[tokio::test]
async fn global_delta_opt_in_is_confirmed() {
    let server = server().await;
    for data in
        [json!({}), json!({ "algorithms": ["fossil", "xdelta3"] }), json!({ "algorithms": ["fossil"] })]
    {
        let mut browser = server.browser("key1").await;
        // `data` is an object here, not a string.
        assert_eq!(opt_in(&mut browser, data).await, json!({ "enabled": true, "algorithm": "fossil" }));
        browser.subscribe("news").await;
        publish(&server.caller("1"), 1).await;
        assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Full);
    }
    let mut browser = server.browser("key1").await;
    let data = opt_in(&mut browser, json!({ "algorithms": ["rot13"] })).await;
    assert_eq!(data["enabled"], false);
    browser.subscribe("news").await;
    publish(&server.caller("1"), 1).await;
    assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Plain);
}

/// protocol.md 3.2, the table.
#[tokio::test]
async fn subscription_delta_opt_in_accepts_every_form() {
    let server = server().await;
    let caller = server.caller("1");
    for delta in [
        json!("fossil"),
        json!("Fossil"),
        json!("anything else"),
        json!(true),
        json!({}),
        json!({ "enabled": true }),
        json!({ "algorithm": "fossil" }),
        json!({ "enabled": true, "algorithm": "fossil" }),
        json!({ "enabled": true, "algorithms": ["fossil"] }),
    ] {
        let mut browser = server.browser("key1").await;
        browser.subscribe_with("news", json!({ "delta": delta })).await;
        let frame = browser.expect_event("news", "pusher:delta_compression_enabled").await;
        let expected = json!({ "enabled": true, "algorithm": "fossil", "channel": "news" });
        assert_eq!(frame.data, expected, "{delta}");
        publish(&caller, 1).await;
        assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Full, "{delta}");
    }
    for delta in [json!("disabled"), json!("FALSE"), json!("none"), json!(false), json!({ "enabled": false })]
    {
        let mut browser = server.browser("key1").await;
        // The subscription's setting takes precedence over the socket's, in either
        // order.
        opt_in(&mut browser, json!({})).await;
        browser.subscribe_with("news", json!({ "delta": delta })).await;
        opt_in(&mut browser, json!({})).await;
        publish(&caller, 1).await;
        assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Plain, "{delta}");
    }
    for delta in [json!(7), json!(["fossil"]), json!(null)] {
        let mut browser = server.browser("key1").await;
        browser.subscribe_with("news", json!({ "delta": delta })).await;
        publish(&caller, 1).await;
        assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Plain, "{delta}");
    }
}

/// The global opt-in may come at any time, and never removes an earlier one.
#[tokio::test]
async fn global_opt_in_may_be_late_and_repeated() {
    let server = server().await;
    let caller = server.caller("1");
    let (mut browser, client) = (server.browser("key1").await, DeltaClient::default());
    browser.subscribe("news").await;
    let mut reader = Reader { browser, client };
    publish(&caller, 0).await;
    reader.expect(Encoding::Plain, &text(0)).await;
    opt_in(&mut reader.browser, json!({})).await;
    let number = reader.publish_until_full(&caller, Encoding::Plain).await;
    opt_in(&mut reader.browser, json!({})).await;
    for number in number + 1..number + 5 {
        publish(&caller, number).await;
        reader.expect(Encoding::Delta, &text(number)).await;
    }
}

/// A new subscription has its own settings: those of the previous one do not apply.
#[tokio::test]
async fn unsubscribe_ends_subscription_opt_in() {
    let server = server().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    browser.subscribe_with("news", json!({ "delta": true })).await;
    browser.expect_event("news", "pusher:delta_compression_enabled").await;
    browser.unsubscribe("news").await;
    browser.subscribe("news").await;
    publish(&caller, 1).await;
    assert_eq!(DeltaClient::default().read(&browser.next().await).encoding, Encoding::Plain);
}

#[tokio::test]
async fn delta_sync_error_yields_full_event() {
    let server = server().await;
    let caller = server.caller("1");
    let mut reader = Reader::on(&server, "news").await;
    for number in 0..2 {
        publish(&caller, number).await;
        reader.next().await;
    }
    let lost = json!({ "event": "pusher:delta_sync_error", "data": { "channel": "news" } });
    reader.client.forget("news");
    reader.browser.send(lost).await;
    let number = reader.publish_until_full(&caller, Encoding::Delta).await + 1;
    // The negotiated settings remain.
    publish(&caller, number).await;
    reader.expect(Encoding::Delta, &text(number)).await;

    // A sync error for a channel without a subscription has no effect.
    let other = json!({ "event": "pusher:delta_sync_error", "data": { "channel": "olds" } });
    reader.browser.send(other).await;
    reader.browser.settle().await;
    publish(&caller, number + 1).await;
    reader.expect(Encoding::Delta, &text(number + 1)).await;
}

/// With deltas on, `data` is inline JSON where it is an object or an array,
/// verbatim, so that full events and deltas decode to the same text.
#[tokio::test]
async fn delta_subscriber_receives_json_data_inline() {
    let server = server().await;
    let caller = server.caller("1");
    let mut reader = Reader::on(&server, "news").await;
    for (data, inline) in [
        (r#"{"a":1.0,"b":12345678901234567890123}"#, true),
        (r#"{ "spaced" : [ 1 ,2 ] }"#, true),
        ("[1,2]", true),
        ("[]", true),
        ("7", false),
        ("true", false),
        ("null", false),
        (r#""a string""#, false),
        ("plain", false),
        ("", false),
        ("{not json}", false),
        (r#"{"a":1}{"b":2}"#, false),
    ] {
        caller.publish("news", "e", data).await;
        let frame = reader.browser.next().await;
        let written = if inline { data.to_owned() } else { Value::from(data).to_string() };
        let expected = format!(r#"{{"event":"e","channel":"news","data":{written},"__delta_seq":"#);
        assert!(frame.text.starts_with(&expected), "{} does not begin with {expected}", frame.text);
        assert_eq!(reader.client.read(&frame).published(), data);
    }
}

/// Small events are numbered too: the minimum size only avoids the encoding.
#[tokio::test]
async fn small_events_are_full_and_numbered() {
    let server = server().await;
    let caller = server.caller("1");
    let mut reader = Reader::on(&server, "news").await;
    for number in 0..5 {
        caller.publish("news", "e", &number.to_string()).await;
        reader.expect(Encoding::Full, &number.to_string()).await;
    }
}

/// Clients strip the markers by pattern, from payloads as well: an event that
/// contains them is never numbered, and the chain continues without it.
#[tokio::test]
async fn event_containing_marker_text_is_plain() {
    let server = server().await;
    let caller = server.caller("1");
    let mut reader = Reader::on(&server, "news").await;
    publish(&caller, 0).await;
    reader.expect(Encoding::Full, &text(0)).await;
    for note in ["__delta_seq", "__conflation_key", r#","__delta_seq":7"#] {
        let data = json!({ "note": note }).to_string();
        caller.publish("news", "e", &data).await;
        reader.expect(Encoding::Plain, &data).await;
    }
    publish(&caller, 1).await;
    reader.expect(Encoding::Delta, &text(1)).await;
}

#[tokio::test]
async fn full_event_is_sent_at_least_every_interval() {
    let config = "[delta_compression]\nfull_message_interval = 3";
    let server = Server::builder().config(config).start().await;
    let caller = server.caller("1");
    let mut reader = Reader::on(&server, "news").await;
    let mut deltas_in_a_row = 0;
    let mut longest = 0;
    for number in 0..30 {
        publish(&caller, number).await;
        let event = reader.next().await;
        assert_eq!(event.published(), text(number));
        deltas_in_a_row = if event.encoding == Encoding::Delta { deltas_in_a_row + 1 } else { 0 };
        longest = longest.max(deltas_in_a_row);
    }
    assert_eq!(longest, 3);
}

/// protocol.md 3.6: these clients announce delta support, but lose every delta.
#[tokio::test]
async fn clients_known_to_lose_deltas_receive_none() {
    let server = server().await;
    let caller = server.caller("1");
    for (client, version, encoding) in [
        ("python", "2.2.0", Encoding::Plain),
        ("python", "2.0.1", Encoding::Plain),
        ("python", "2.3.0", Encoding::Delta),
        ("js", "2.2.0", Encoding::Delta),
    ] {
        let path = format!("/app/key1?protocol=7&client={client}&version={version}&flash=false");
        let (mut browser, mut memory) = (server.connect(&path).await, DeltaClient::default());
        browser.expect_greeting().await;
        // The opt-in is confirmed nevertheless.
        opt_in(&mut browser, json!({ "algorithms": ["fossil", "xdelta3"] })).await;
        browser.subscribe("news").await;
        publish(&caller, 0).await;
        memory.read(&browser.next().await);
        publish(&caller, 1).await;
        assert_eq!(memory.read(&browser.next().await).encoding, encoding, "{client} {version}");
    }
}

/// Server settings permit or forbid deltas; they never impose them.
#[tokio::test]
async fn app_can_disable_deltas_per_channel_pattern() {
    let app = AppSpec::new("1").set("channel_delta_compression", r#"{ "quiet-*" = "disabled" }"#);
    let server = Server::builder().config(NO_INTERVAL).app(app).start().await;
    let mut quiet = Reader::on(&server, "quiet-room").await;
    let mut loud = Reader::on(&server, "loud-room").await;
    for number in 0..4 {
        server.caller("1").publish("quiet-room", "e", &text(number)).await;
        server.caller("1").publish("loud-room", "e", &text(number)).await;
        let event = quiet.next().await;
        assert!(event.encoding != Encoding::Delta && event.published() == text(number));
        loud.expect(if number == 0 { Encoding::Full } else { Encoding::Delta }, &text(number)).await;
    }
}

#[tokio::test]
async fn server_can_disable_deltas() {
    let server = Server::builder().config("[delta_compression]\nenabled = false").start().await;
    let mut browser = server.browser("key1").await;
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
    browser.subscribe("news").await;
    for number in 0..3 {
        server.caller("1").publish("news", "e", &text(number)).await;
        let mut frame = browser.next().await;
        while frame.event == "pusher:delta_compression_enabled" {
            assert_eq!(frame.data["enabled"], false, "{}", frame.text);
            frame = browser.next().await;
        }
        assert_eq!(DeltaClient::default().read(&frame).encoding, Encoding::Plain);
    }
}
