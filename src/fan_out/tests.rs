use std::collections::HashMap;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::task::noop_waker;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::delta::fossil;
use crate::hub::outbox::Outbox;
use crate::hub::{Form, Hub, Subscriber};

fn config() -> DeltaConfig {
    DeltaConfig {
        enabled: true,
        full_message_interval: 10,
        min_message_bytes: 40,
        compression_ratio_max: 0.9,
        base_age_max: Duration::from_secs(300),
        omit_algorithm: false,
        refused_clients: vec![],
    }
}

/// A client that reconstructs, as protocol.md 3.5 says it does.
struct Client {
    outbox: Arc<Outbox>,
    chained: bool,
    base: Option<String>,
    /// Names and data, as the application would see them.
    seen: Vec<(String, String)>,
    deltas: usize,
}

impl Client {
    fn read(&mut self) {
        let mut chunks = Vec::new();
        let waker = noop_waker();
        while self.outbox.poll_take(&mut Context::from_waker(&waker), &mut chunks, 64).is_ready() {
            for frame in frames(&chunks.concat()) {
                self.see(&frame);
            }
            chunks.clear();
        }
    }

    fn see(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        if frame["event"] != "pusher:delta" {
            let marked = frame.get("__delta_seq").is_some();
            assert!(self.chained || !marked, "only who asked for deltas sees markers");
            if let Some(seq) = frame.get("__delta_seq") {
                self.base = Some(text.replace(&format!(",\"__delta_seq\":{seq}"), ""));
            }
            return self.seen.push((frame["event"].as_str().expect("a name").into(), data(&frame)));
        }
        self.deltas += 1;
        let delta = STANDARD.decode(frame["data"]["delta"].as_str().expect("a delta")).expect("base64");
        let base = self.base.as_ref().expect("a delta comes only to who holds the base");
        let text = fossil::decode(base.as_bytes(), &delta, 1 << 20).expect("the base is the right one");
        let text = String::from_utf8(text).expect("UTF-8");
        let envelope = serde_json::from_str(&text).expect("the target is an envelope");
        self.seen.push((frame["data"]["event"].as_str().expect("a name").into(), data(&envelope)));
        self.base = Some(text);
    }
}

/// The payload's text, whether it is a string or stands there as it is.
fn data(envelope: &Value) -> String {
    match &envelope["data"] {
        Value::String(text) => text.clone(),
        inline => inline.to_string(),
    }
}

/// The texts of unmasked frames.
fn frames(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x81);
        let (header, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            len => (2, usize::from(len)),
        };
        texts.push(String::from_utf8(bytes[header..header + len].to_vec()).expect("UTF-8"));
        bytes = &bytes[header + len..];
    }
    texts
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Vec<(String, String, Option<u8>, Option<bool>)>),
    Join(u8, bool),
    Leave(u8),
    Resync(u8),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        4 => (0_u32..50, "[a-zé😀\"\\\\]{0,20}").prop_map(|(n, s)|
            serde_json::json!({ "price": n, "text": s, "padding": "x".repeat(80) }).to_string()),
        1 => "\\PC{0,60}",
        1 => Just(r#"{"a":1,"__delta_seq":5,"padding":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#.to_owned()),
        1 => Just("7".to_owned()),
    ];
    let event = (
        "[ab]",
        payload,
        proptest::option::weighted(0.1, 0_u8..4),
        proptest::option::weighted(0.1, any::<bool>()),
    );
    prop_oneof![
        6 => proptest::collection::vec(event, 1..6).prop_map(Step::Publish),
        2 => (0_u8..4, any::<bool>()).prop_map(|(who, chained)| Step::Join(who, chained)),
        1 => (0_u8..4).prop_map(Step::Leave),
        1 => (0_u8..4).prop_map(Step::Resync),
        1 => Just(Step::Forget),
    ]
}

fn socket(who: u8) -> SocketId {
    SocketId::parse(&format!("1.{who}")).expect("a socket id")
}

proptest! {
    /// Promises P3 and P8 on one node: whoever joins, leaves, loses its base or is
    /// the excluded sender, sees exactly what was published to it.
    #[test]
    fn what_is_reconstructed_is_what_was_published(steps in proptest::collection::vec(step(), 1..60)) {
        let (config, mut chain, mut hub) = (config(), Chain::default(), Hub::default());
        let mut clients: HashMap<u8, Client> = HashMap::new();
        let mut expected: HashMap<u8, Vec<(String, String)>> = HashMap::new();
        let mut seq = 0;
        for step in steps {
            match step {
                Step::Join(who, chained) => {
                    let outbox = Outbox::new();
                    let form = if chained { Form::Chained { holds_from: chain.next_index() } } else { Form::Plain };
                    hub.add(socket(who), Subscriber { outbox: outbox.clone(), form, member: None });
                    expected.insert(who, vec![]);
                    clients.insert(who, Client { outbox, chained, base: None, seen: vec![], deltas: 0 });
                }
                Step::Leave(who) => {
                    hub.remove(socket(who));
                    if let Some(mut client) = clients.remove(&who) {
                        client.read();
                        prop_assert_eq!(&client.seen, &expected[&who]);
                    }
                }
                Step::Resync(who) => {
                    hub.resync(socket(who), chain.next_index());
                    if let Some(client) = clients.get_mut(&who) { client.read(); client.base = None; }
                }
                Step::Forget => chain.restart(),
                Step::Publish(events) => {
                    for (name, data, except, _) in &events {
                        for who in clients.keys().filter(|who| Some(**who) != *except) {
                            expected.get_mut(who).expect("joined").push((name.clone(), normal(data)));
                        }
                    }
                    let events: Vec<Event> = events.into_iter().map(|(name, data, except, delta)| Event {
                        name: name.into(), data: data.into(), except: except.map(socket), tags: None, delta, user: None,
                    }).collect();
                    let delivery = Delivery { channel: "c", first_seq: seq + 1, time_ms: 0, events: &events, is_chained: true };
                    seq += events.len() as u64;
                    let mut frames = encode(&delivery, hub.needs(), &mut chain, &config);
                    hub.deliver(&mut frames, &mut vec![]);
                }
            }
        }
        for (who, client) in &mut clients {
            client.read();
            prop_assert_eq!(&client.seen, &expected[who]);
        }
    }
}

/// Payloads that stand inline are compared as JSON values here; that their bytes
/// are the publisher's is shown with an independent decoder in `tests/it`.
fn normal(data: &str) -> String {
    match json_value(data) {
        Some(value @ (Value::Object(_) | Value::Array(_))) if !envelope::has_marker(b"", data.as_bytes()) => {
            value.to_string()
        }
        _ => data.to_owned(),
    }
}

fn json_value(data: &str) -> Option<Value> {
    serde_json::from_str(data).ok()
}

#[test]
fn sockets_without_deltas_share_one_buffer_per_run() {
    let (config, mut chain, mut hub) = (config(), Chain::default(), Hub::default());
    let outboxes: Vec<_> = (0..3).map(|_| Outbox::new()).collect();
    for (who, outbox) in (0..).zip(&outboxes) {
        hub.add(socket(who), Subscriber { outbox: outbox.clone(), form: Form::Plain, member: None });
    }
    let event =
        Event { name: "e".into(), data: "d".into(), except: None, tags: None, delta: None, user: None };
    let events = vec![event; 10];
    let delivery = Delivery { channel: "c", first_seq: 1, time_ms: 0, events: &events, is_chained: true };
    let mut frames = encode(&delivery, hub.needs(), &mut chain, &config);
    hub.deliver(&mut frames, &mut vec![]);
    let mut chunks = Vec::new();
    for outbox in outboxes {
        let _ = outbox.poll_take(&mut Context::from_waker(&noop_waker()), &mut chunks, 64);
    }
    assert_eq!(chunks.len(), 3, "one chunk each, for ten events");
    assert!(chunks.iter().all(|chunk| chunk.as_ptr() == chunks[0].as_ptr()));
}
