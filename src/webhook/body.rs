//! The body of a call (protocol.md 5).

use std::borrow::Cow;

use serde::Serialize;

use crate::webhook_event::WebhookEventKind;

use super::delivery_queues::Delivery;

#[derive(Serialize)]
struct Body<'a> {
    /// Time of the call, in ms by this node's clock.
    time_ms: u64,
    events: Vec<EventBody<'a>>,
}

#[derive(Default, Serialize)]
struct EventBody<'a> {
    name: &'static str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<u64>,
    /// Time of the cause, in ms by the backend's clock.
    time_ms: u64,
    id: String,
}

/// `{"time_ms":…,"events":[…]}`, in the given order.
pub(super) fn encode(time_ms: u64, events: &[Delivery]) -> Vec<u8> {
    let body = Body { time_ms, events: events.iter().map(EventBody::of).collect() };
    serde_json::to_vec(&body).expect("texts and numbers serialize without errors")
}

impl EventBody<'_> {
    fn of(delivery: &Delivery) -> EventBody<'_> {
        let webhook_event = &*delivery.webhook_event;
        let body = EventBody {
            name: webhook_event.what.name(),
            channel: &webhook_event.channel,
            time_ms: webhook_event.id.time_ms,
            id: delivery.id(),
            ..EventBody::default()
        };
        match &webhook_event.what {
            WebhookEventKind::ChannelOccupied | WebhookEventKind::ChannelVacated => body,
            WebhookEventKind::MemberAdded { user_id } | WebhookEventKind::MemberRemoved { user_id } => {
                EventBody { user_id: Some(user_id.into()), ..body }
            }
            WebhookEventKind::ClientEvent(event) => EventBody {
                event: Some(String::from_utf8_lossy(&event.name)),
                data: Some(String::from_utf8_lossy(&event.data)),
                socket_id: event.except.map(|socket| socket.to_string()),
                user_id: event.user.as_deref().map(String::from_utf8_lossy),
                ..body
            },
            WebhookEventKind::CacheMiss => EventBody { data: Some("{}".into()), ..body },
            WebhookEventKind::SubscriptionCount(count) => {
                EventBody { subscription_count: Some(*count), ..body }
            }
        }
    }
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
            r#"{{"name":"{name}","channel":"presence-a;b"{fields},"time_ms":1327078148132,"id":"1-7-1327078148132-4"}}"#
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
