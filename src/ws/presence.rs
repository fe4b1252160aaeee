//! The member of a subscription to a presence channel (protocol.md 2.4, 2.6).

use std::sync::Arc;

use super::connection::Connection;
use super::refusal::Refusal;
use super::subscribe::Unsigned;
use crate::channel::ChannelName;
use crate::json;
use crate::presence::Member;
use crate::wire::command::Subscribe;
use crate::wire::identity;

impl Connection {
    /// Returns the member that the app's backend has signed: the one in `channel_data`, or
    /// without `channel_data` the signed-in user of the connection. A repeated subscription
    /// keeps its member.
    ///
    /// The channels actor checks the limit of members later.
    pub(super) fn check_presence(
        &self,
        channel: &ChannelName,
        subscribe: &Subscribe,
    ) -> Result<Arc<Member>, Refusal> {
        let auth = subscribe.auth.as_deref();
        let member = match (subscribe.channel_data(), self.user.as_deref()) {
            (Some(text), _) => {
                self.check_auth(channel, auth, Some(text), Unsigned::Refused)?;
                identity::parse_channel_data(text)
                    .map_err(|error| Refusal::new("InvalidChannelData", error.to_string(), 400))?
            }
            (None, Some(user)) => {
                self.check_auth(channel, auth, None, Unsigned::Refused)?;
                Member::new(user.id.clone(), user.info.clone())
            }
            (None, None) => {
                let error = "a presence channel requires `channel_data` or a signed-in connection";
                return Err(Refusal::new("AuthError", error.to_owned(), 401));
            }
        };
        let (bytes, bytes_max) = (json::decoded_len(&member.info), self.app.limits.presence_member_bytes_max);
        if bytes > bytes_max {
            let error = format!("`user_info` has {bytes} bytes (limit: {bytes_max})");
            return Err(Refusal::new("LimitReached", error, 4301));
        }
        let existing = self.subscriptions.get(channel).and_then(|existing| existing.member.clone());
        Ok(existing.unwrap_or_else(|| Arc::new(member)))
    }
}
