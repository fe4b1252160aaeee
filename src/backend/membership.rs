//! WebhookEventKind a node says of its members in a channel, and what it is answered.

use std::sync::Arc;

use super::Cached;
use crate::app::{App, HookedEvents};
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::presence::Member;

/// This node's membership in a channel, as absolute numbers, so that saying it
/// again changes nothing.
#[derive(Debug, Clone)]
pub struct MembershipUpdate {
    pub channel_id: ChannelId,
    /// Subscriptions of this node.
    pub count: u64,
    /// On a presence channel, the users whose number may have changed.
    pub users: Vec<UserCount>,
    pub rules: MembershipRules,
    /// Somebody joins a cache channel: the last event is wanted.
    pub wants_last: bool,
}

#[derive(Debug, Clone)]
pub struct UserCount {
    pub member: Arc<Member>,
    /// Connections of this user on this node, in this channel. 0 takes it away.
    pub count: u64,
    /// All of them are joining: the limit on members may refuse them.
    pub is_new: bool,
}

/// WebhookEventKind the app's settings mean to a channel's scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MembershipRules {
    pub hooked: HookedEvents,
    /// Subscribers are told how many they are.
    pub subscription_counts: bool,
    /// Watchers are told whether a user is online.
    pub user_status: bool,
    pub members_max: usize,
}

impl From<&App> for MembershipRules {
    fn from(app: &App) -> MembershipRules {
        MembershipRules {
            hooked: app.hooked_events(),
            subscription_counts: app.features.subscription_counts,
            user_status: app.features.watchlists,
            members_max: app.limits.presence_members_max,
        }
    }
}

/// A node's membership was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatedMembership {
    /// Where the channel stood at that moment, after what the update itself
    /// has announced: what comes after is for everyone who was counted.
    pub at: Position,
    /// Subscriptions of the whole cluster.
    pub total: u64,
    /// A cache channel's last event, at `at`.
    pub last: Option<Cached>,
    /// Places in [`MembershipUpdate::users`] of those who were not let in, because the
    /// channel has `members_max` users. They are not counted.
    pub refused: Vec<usize>,
    /// The cluster has found that deltas do not pay here.
    pub deltas_off: bool,
}
