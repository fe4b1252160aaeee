//! The contract of memberships: each node reports its subscriptions and users of a channel, and the
//! backend adds them up for the cluster.

use std::sync::Arc;

use super::{Backend, BackendError, Cached};
use crate::app::{App, HookedEvents};
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::presence::{Member, Roster};

impl Backend {
    /// Writes this node's membership and appends the resulting entry, if the numbers of the cluster
    /// change: added and removed members, a subscription count, a user's online status.
    pub async fn update_membership(
        &self,
        update: &MembershipUpdate,
    ) -> Result<UpdatedMembership, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.update_membership(update)),
            Backend::Redis(redis) => redis.update_membership(update).await,
        }
    }

    /// The roster of a presence channel in the whole cluster.
    pub async fn read_roster(&self, channel_id: &ChannelId) -> Result<RosterRead, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_roster(channel_id)),
            Backend::Redis(redis) => redis.read_roster(channel_id).await,
        }
    }
}

/// This node's membership of a channel, in absolute numbers, so that a repeated update changes
/// nothing.
#[derive(Debug, Clone)]
pub struct MembershipUpdate {
    pub channel_id: ChannelId,
    /// Subscriptions of this node.
    pub count: u64,
    /// On a presence channel, the users whose number of connections may have changed.
    pub users: Vec<UserCount>,
    pub rules: MembershipRules,
    /// A pending subscription of a cache channel needs the last event.
    pub wants_last: bool,
    /// All subscriptions of this node are pending, so the limit on the app's occupied channels may
    /// refuse them.
    pub is_new: bool,
}

#[derive(Debug, Clone)]
pub struct UserCount {
    pub member: Arc<Member>,
    /// Connections of the user on this node, in this channel. 0 removes the user.
    pub count: u64,
    /// All of these connections are pending, so the limit on members may refuse them.
    pub is_new: bool,
}

/// The app settings that the membership scripts use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MembershipRules {
    pub hooked: HookedEvents,
    /// Subscribers receive subscription counts.
    pub subscription_counts: bool,
    /// Watchers receive the online status of users.
    pub user_status: bool,
    pub members_max: usize,
    /// Occupied channels of the app in the whole cluster.
    pub occupied_max: u64,
}

impl From<&App> for MembershipRules {
    fn from(app: &App) -> MembershipRules {
        MembershipRules {
            hooked: app.hooked_events(),
            subscription_counts: app.features.subscription_counts,
            user_status: app.features.watchlists,
            members_max: app.limits.presence_members_max,
            occupied_max: app.limits.occupied_channels_max,
        }
    }
}

/// Result of a membership update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdatedMembership {
    /// The channel's position after the update, including the update's own entry. Every
    /// subscription in the update receives the entries after `at`.
    pub at: Position,
    /// Subscriptions of the whole cluster.
    pub total: u64,
    /// A cache channel's last event, at `at`.
    pub last: Option<Cached>,
    /// Indexes in [`MembershipUpdate::users`] of the users that the backend has refused, because
    /// the channel has `members_max` users. Their connections are not counted.
    pub refused: Vec<usize>,
    /// The delta toggle has disabled deltas on the channel.
    pub deltas_off: bool,
    /// The app has too many occupied channels: the update has changed nothing.
    pub is_refused: bool,
}

/// The roster of a presence channel, as a node reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RosterRead {
    pub roster: Roster,
    /// Users with connections on this node.
    pub own: Vec<Arc<str>>,
}
