//! `append_control_entry`: client events, and the termination of a user's connections.

use fanfare::entry::{Body, EntryId, Kind};
use fanfare::event::encode_events;

use super::calls::{Batch, control_entry, event};
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn control_entries_share_sequence_and_history_with_events() {
    bounded(async {
        let mut stage = Stage::start().await;
        let body = encode_events([&event("moved")]);
        stage.run(&control_entry("a", Kind::ClientEvents.code(), &body, false, 10)).await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.run(&control_entry("a", Kind::Termination.code(), b"", false, 10)).await;
        let bodies = stage.bodies().await;
        let moved = Body::ClientEvents(vec![event("moved")]);
        assert_eq!(bodies, [moved, Body::Events(vec![event("1")]), Body::Termination]);
        let log = stage.log("a").await;
        assert_eq!(log[0].prev, EntryId::NONE);
        for pair in log.windows(2) {
            assert_eq!((pair[1].first_seq, pair[1].prev), (pair[0].first_seq + 1, pair[0].id));
        }
        assert_eq!(stage.head("a", "seq").await, log[2].first_seq);
        stage.assert_log_bytes("a").await;
        assert!(!stage.exists("outbox").await, "no webhook subscribes to client events");
    })
    .await;
}

#[tokio::test]
async fn client_event_is_reported_to_subscribed_webhooks() {
    bounded(async {
        let mut stage = Stage::start().await;
        let body = encode_events([&event("moved\0\n ")]);
        stage.run(&control_entry("a", Kind::ClientEvents.code(), &body, true, 10)).await;
        let expected = format!("client_event 1:a event={}", String::from_utf8_lossy(&body));
        assert_eq!(stage.webhook_events().await, [expected]);
    })
    .await;
}
