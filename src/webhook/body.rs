//! The body of a call (protocol.md 5).

use std::io::Write;

use crate::json;
use crate::webhook_event::WebhookEventKind;

use super::delivery_queues::Delivery;

/// `{"time_ms":…,"events":[…]}`, in the given order. `time_ms` is the time of the call in
/// ms by this node's clock; that of an event is the time of its cause by the backend's.
pub(super) fn encode(time_ms: u64, events: &[Delivery]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + events.len() * 160);
    write!(out, r#"{{"time_ms":{time_ms},"events":["#).expect("a Vec takes every write");
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_event(&mut out, event);
    }
    out.extend_from_slice(b"]}");
    out
}

fn write_event(out: &mut Vec<u8>, event: &Delivery) {
    let webhook_event = &event.webhook_event;
    out.extend_from_slice(b"{\"name\":");
    json::write_string(out, webhook_event.what.name().as_bytes());
    write_text(out, "channel", webhook_event.channel.as_bytes());
    write_kind(out, &webhook_event.what);
    write_number(out, "time_ms", webhook_event.id.time_ms);
    write_text(out, "id", event.id().as_bytes());
    out.push(b'}');
}

fn write_kind(out: &mut Vec<u8>, kind: &WebhookEventKind) {
    match kind {
        WebhookEventKind::ChannelOccupied | WebhookEventKind::ChannelVacated => {}
        WebhookEventKind::MemberAdded { user_id } | WebhookEventKind::MemberRemoved { user_id } => {
            write_text(out, "user_id", user_id.as_bytes());
        }
        WebhookEventKind::ClientEvent(event) => {
            write_text(out, "event", &event.name);
            write_text(out, "data", &event.data);
            if let Some(socket) = event.except {
                write_text(out, "socket_id", socket.to_string().as_bytes());
            }
            if let Some(user) = &event.user {
                write_text(out, "user_id", user);
            }
        }
        WebhookEventKind::CacheMiss => write_text(out, "data", b"{}"),
        WebhookEventKind::SubscriptionCount(count) => write_number(out, "subscription_count", *count),
    }
}

fn write_text(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    write!(out, ",\"{name}\":").expect("a Vec takes every write");
    json::write_string(out, text);
}

fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    write!(out, ",\"{name}\":{number}").expect("a Vec takes every write");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::channel::Partition;
    use crate::event::{Event, SocketId};
    use crate::webhook_event::{WebhookEvent, WebhookEventId};

    fn check(kind: WebhookEventKind, fields: &str) {
        let id = WebhookEventId { time_ms: 1_327_078_148_132, number: 4 };
        let (name, channel) = (kind.name(), "presence-a;b".to_owned());
        let webhook_event = Arc::new(WebhookEvent { id, app: "1".into(), channel, what: kind });
        let event = Delivery::new(Partition(7), webhook_event, Instant::now());
        let one = format!(
            r#"{{"name":"{name}","channel":"presence-a;b"{fields},"time_ms":1327078148132,"id":"7-1327078148132-4"}}"#
        );
        let body = |events: &[Delivery]| String::from_utf8(encode(99, events)).expect("a body is UTF-8");
        assert_eq!(body(std::slice::from_ref(&event)), format!(r#"{{"time_ms":99,"events":[{one}]}}"#));
        let two = body(&[event.clone(), event]);
        assert_eq!(two, format!(r#"{{"time_ms":99,"events":[{one},{one}]}}"#));
        serde_json::from_str::<serde_json::Value>(&two).expect("a body is JSON");
    }

    #[test]
    fn body_has_the_members_of_each_event_type() {
        check(WebhookEventKind::ChannelOccupied, "");
        check(WebhookEventKind::ChannelVacated, "");
        check(WebhookEventKind::MemberAdded { user_id: "a\"b".into() }, r#","user_id":"a\"b""#);
        check(WebhookEventKind::MemberRemoved { user_id: "ü".into() }, r#","user_id":"ü""#);
        check(WebhookEventKind::CacheMiss, r#","data":"{}""#);
        check(WebhookEventKind::SubscriptionCount(17), r#","subscription_count":17"#);
    }

    #[test]
    fn client_event_body_has_data_as_the_delivered_string() {
        let event = Event {
            name: "client-\n".into(),
            data: r#"{"x":1}"#.into(),
            except: SocketId::parse("12.34"),
            tags: None,
            delta: None,
            user: None,
            key: None,
        };
        let fields = r#","event":"client-\n","data":"{\"x\":1}","socket_id":"12.34""#;
        check(WebhookEventKind::ClientEvent(event.clone()), fields);
        let of_member = Event { user: Some("u1".into()), ..event };
        check(WebhookEventKind::ClientEvent(of_member), &[fields, r#","user_id":"u1""#].concat());
    }
}
