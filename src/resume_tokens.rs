//! The key of the cluster that authenticates resume tokens (docs/resume.md, *Tokens*).

use hmac::Mac;
use parking_lot::RwLock;

use crate::app::Secret;
use crate::auth;
use crate::channel::{ChannelId, ChannelKind};
use crate::event::SocketId;
use crate::presence::Member;
use crate::wire::resume::ResumeToken;

/// Mints and verifies tokens. All nodes of a cluster share the key: it is stored next to the
/// histories, and lasts as long as they do.
#[derive(Debug)]
pub struct ResumeTokens {
    key: RwLock<Secret>,
}

/// The subscriber to whom a token is given, where the channel requires authorization. On a user
/// channel the name of the channel contains the user.
#[derive(Debug, Clone, Copy)]
pub enum Holder<'a> {
    Anyone,
    Connection(SocketId),
    User(&'a str),
}

impl<'a> Holder<'a> {
    /// `member` is that of the subscriber on a presence channel.
    pub fn of(kind: ChannelKind, socket: SocketId, member: Option<&'a Member>) -> Holder<'a> {
        match (kind, member) {
            (ChannelKind::Presence, Some(member)) => Holder::User(&member.user_id),
            (ChannelKind::Public | ChannelKind::User, _) => Holder::Anyone,
            _ => Holder::Connection(socket),
        }
    }

    fn text(self) -> String {
        match self {
            Holder::Anyone => String::new(),
            Holder::Connection(socket) => format!("connection {socket}"),
            Holder::User(user_id) => format!("user {user_id}"),
        }
    }
}

impl ResumeTokens {
    /// With a new random key.
    pub fn new() -> ResumeTokens {
        ResumeTokens { key: RwLock::new(Secret::new(hex::encode(rand::random::<[u8; 32]>()))) }
    }

    pub fn key(&self) -> Secret {
        self.key.read().clone()
    }

    /// Adopts the key of the cluster. Tokens of an earlier key are not valid any more.
    pub fn adopt(&self, key: Secret) {
        if *self.key.read() != key {
            *self.key.write() = key;
        }
    }

    /// A token for a subscription that begins at the full sequence number `since`.
    pub fn mint(&self, channel_id: &ChannelId, holder: Holder<'_>, since: u64) -> ResumeToken {
        let mac = self.mac(channel_id, holder, since).finalize().into_bytes();
        ResumeToken { since, mac: std::array::from_fn(|at| mac[at]) }
    }

    /// Whether the token was minted for this channel and holder.
    pub fn verify(&self, channel_id: &ChannelId, holder: Holder<'_>, token: &ResumeToken) -> bool {
        self.mac(channel_id, holder, token.since).verify_truncated_left(&token.mac).is_ok()
    }

    /// The text is unambiguous: only its last line, a user id, may contain line breaks.
    fn mac(&self, channel_id: &ChannelId, holder: Holder<'_>, since: u64) -> impl Mac {
        let (app, channel, holder) = (channel_id.app(), channel_id.channel(), holder.text());
        auth::mac(&self.key.read(), format!("resume 1\n{app}\n{channel}\n{since}\n{holder}"))
    }
}

impl Default for ResumeTokens {
    fn default() -> ResumeTokens {
        ResumeTokens::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel_id(text: &str) -> ChannelId {
        ChannelId::from_wire(text).expect("a channel id")
    }

    #[test]
    fn token_is_valid_for_its_channel_holder_and_number_only() {
        let (tokens, other) = (ResumeTokens::new(), ResumeTokens::new());
        let news = channel_id("1:private-news");
        let [ann, bob] = ["1.2", "1.3"].map(|id| Holder::Connection(SocketId::parse(id).expect("an id")));
        let token = tokens.mint(&news, ann, 7);
        assert!(tokens.verify(&news, ann, &token));
        for holder in [bob, Holder::Anyone, Holder::User("ann")] {
            assert!(!tokens.verify(&news, holder, &token), "{holder:?}");
        }
        for channel in ["2:private-news", "1:private-new", "1:private-news2"] {
            assert!(!tokens.verify(&channel_id(channel), ann, &token), "{channel}");
        }
        let earlier = ResumeToken { since: 6, ..token };
        assert!(!tokens.verify(&news, ann, &earlier));
        assert!(!other.verify(&news, ann, &token), "another cluster");
        other.adopt(tokens.key());
        assert!(other.verify(&news, ann, &token));
    }

    #[test]
    fn holder_text_is_unambiguous() {
        let (tokens, room) = (ResumeTokens::new(), channel_id("1:presence-room"));
        let token = tokens.mint(&room, Holder::User("connection 1.2"), 7);
        assert!(!tokens.verify(&room, Holder::Connection(SocketId::parse("1.2").expect("an id")), &token));
    }
}
