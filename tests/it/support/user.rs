//! A browser's actions as a user: it subscribes to presence channels, signs in, and
//! sends client events.

use fanfare::auth;
use serde_json::{Value, json};

use super::browser::Browser;
use super::frame::Frame;

impl Browser {
    /// Subscribes to a presence channel as a user with a name, and returns
    /// `presence` of the confirmation.
    pub async fn join(&mut self, channel: &str, user_id: &str) -> Value {
        let data = json!({ "user_id": user_id, "user_info": { "name": user_id } });
        self.request_presence_subscription(channel, &data.to_string()).await;
        self.confirmed(channel).await.data_json()["presence"].take()
    }

    /// Sends a presence subscription with exactly this `channel_data`, signed.
    pub async fn request_presence_subscription(&mut self, channel: &str, channel_data: &str) {
        let text = auth::subscription_text(self.socket_id(), channel, Some(channel_data));
        let auth = self.sign_text(&text);
        self.subscribe_raw(json!({ "channel": channel, "auth": auth, "channel_data": channel_data })).await;
    }

    /// Signs in as this user and waits for the success.
    pub async fn sign_in(&mut self, user_id: &str) -> Frame {
        let user_data = json!({ "id": user_id, "user_info": { "name": user_id } });
        self.sign_in_with(&user_data.to_string()).await
    }

    /// The same with exactly this `user_data`. Watchlist events may arrive before
    /// the success.
    pub async fn sign_in_with(&mut self, user_data: &str) -> Frame {
        self.request_sign_in(user_data).await;
        self.find_event("pusher:signin_success").await
    }

    /// Sends the signed sign-in only.
    pub async fn request_sign_in(&mut self, user_data: &str) {
        let auth = self.sign_text(&auth::signin_text(self.socket_id(), user_data));
        self.send(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } }))
            .await;
    }

    /// Sends a client event.
    pub async fn trigger(&mut self, channel: &str, name: &str, data: Value) {
        self.send(json!({ "event": name, "channel": channel, "data": data })).await;
    }

    /// The next frame, which must report these users (protocol.md 2.10).
    pub async fn expect_watchlist(&mut self, online: &[&str], offline: &[&str]) {
        let frame = self.next().await;
        assert_eq!(frame.event, "pusher_internal:watchlist_events", "{}", frame.text);
        assert_eq!(frame.channel, None, "{}", frame.text);
        let lists = [("online", online), ("offline", offline)].into_iter().filter(|(_, ids)| !ids.is_empty());
        let events: Vec<Value> = lists.map(|(name, ids)| json!({ "name": name, "user_ids": ids })).collect();
        assert_eq!(frame.data_json(), json!({ "events": events }));
    }
}
