//! A connection, as its client sees it: the frames that it has received, and their order.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::subscribers::test_client::Client;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) is_subscribed: bool,
    /// Commands that are not confirmed.
    pub(super) unconfirmed: usize,
    pub(super) is_confirmed: bool,
    /// The number of the last event that was published before the subscription.
    pub(super) published_before: u64,
    /// Events up to this number were published before the client was confirmed.
    pub(super) published_unconfirmed: u64,
    pub(super) last_event: Option<u64>,
    /// Events may be missing: the server has said so, or could not know.
    pub(super) may_miss: bool,
    /// The server may say that events may be missing.
    pub(super) may_be_notified: bool,
    pub(super) roster: BTreeSet<String>,
    pub(super) attempt: u32,
    /// The client's position as of its last frame.
    pub(super) position: (u64, u64),
}

impl Connection {
    pub(super) fn check_frame(&mut self, n: u8, name: &str, data: &str) {
        let json: Value = serde_json::from_str(data).unwrap_or_default();
        let user = || json["user_id"].as_str().unwrap_or_default().to_owned();
        match name {
            "pusher_internal:subscription_succeeded" => {
                assert!(self.unconfirmed > 0, "socket {n}: a second confirmation");
                self.unconfirmed -= 1;
                self.is_confirmed = true;
                let ids = json["presence"]["ids"].as_array().into_iter().flatten();
                self.roster = ids.map(|id| id.as_str().unwrap_or_default().to_owned()).collect();
                if let (Some(epoch), Some(seq)) = (json["epoch"].as_u64(), json["seq"].as_u64()) {
                    self.position = (epoch, seq);
                }
            }
            "pusher_internal:member_added" => {
                assert!(self.roster.insert(user()), "socket {n}: {} is a member already", user());
            }
            "pusher_internal:member_removed" => {
                assert!(self.roster.remove(&user()), "socket {n}: {} is not a member", user());
            }
            "pusher:subscription_error" => self.unconfirmed = 0,
            "pusher:position" => {
                let position =
                    (json["epoch"].as_u64().unwrap_or_default(), json["seq"].as_u64().unwrap_or_default());
                assert!(position.0 != self.position.0 || position.1 >= self.position.1, "socket {n}: {data}");
                self.position = position;
                if json["missed"] == true {
                    assert!(self.may_be_notified, "socket {n}: {data}, and nothing was lost");
                    self.may_miss = true;
                }
            }
            "e" => self.check_event(n, json["n"].as_u64().expect("a number")),
            _ => {}
        }
    }

    fn check_event(&mut self, n: u8, number: u64) {
        assert!(self.is_confirmed, "socket {n}: event {number} before the confirmation");
        assert!(number > self.published_before, "socket {n}: event {number} from before the subscription");
        match self.last_event {
            Some(last) if self.may_miss => assert!(number > last, "socket {n}: {number} after {last}"),
            Some(last) => assert_eq!(number, last + 1, "socket {n}: the next event"),
            None if self.may_miss => {}
            None => assert!(
                number <= self.published_unconfirmed + 1,
                "socket {n}: event {number} is the first, {} was published after the confirmation",
                self.published_unconfirmed + 1
            ),
        }
        self.last_event = Some(number);
    }
}
