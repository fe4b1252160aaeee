//! The membership updates of a presence channel.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::presence::Member;

fn member(user: &str) -> Arc<Member> {
    Arc::new(Member::new(user.into(), Bytes::from_static(b"null")))
}

fn room() -> (ChannelId, Channel) {
    let channel = Channel { presence: Some(Box::default()), ..Channel::default() };
    (ChannelId::from_wire("1:presence-room").expect("an address"), channel)
}

/// Sends one update as the channels do, and acknowledges all its users.
fn tell(channel: &mut Channel, channel_id: &ChannelId) -> MembershipUpdate {
    let update = channel.begin_membership_update(channel_id);
    channel.membership.under_way = false;
    channel.membership.reported = Some(update.count);
    let presence = channel.presence.as_mut().expect("a presence channel");
    update.users.iter().for_each(|user| presence.acknowledge(user, false));
    update
}

#[test]
fn a_node_has_subscriptions_until_all_its_users_are_told_to_be_gone() {
    let (channel_id, mut channel) = room();
    let users: Vec<_> = (0..limits::UPDATED_USERS_MAX + 50).map(|n| member(&format!("user-{n}"))).collect();
    let presence = channel.presence.as_mut().expect("a presence channel");
    users.iter().for_each(|user| presence.add_connection(user));
    while channel.needs_membership_update() {
        tell(&mut channel, &channel_id);
    }
    let presence = channel.presence.as_mut().expect("a presence channel");
    users.iter().for_each(|user| presence.remove_connection(user));
    let first = tell(&mut channel, &channel_id);
    assert_eq!((first.users.len(), first.count), (limits::UPDATED_USERS_MAX, 1));
    let last = tell(&mut channel, &channel_id);
    assert_eq!((last.users.len(), last.count), (50, 0));
    assert!(!channel.needs_membership_update());
}

#[test]
fn who_leaves_makes_room_for_who_comes() {
    let (channel_id, mut channel) = room();
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.add_connection(&member("zoe"));
    tell(&mut channel, &channel_id);
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.remove_connection(&member("zoe"));
    presence.add_connection(&member("ann"));
    let users = tell(&mut channel, &channel_id).users;
    let results: Vec<_> = users.iter().map(|user| (&*user.member.user_id, user.count)).collect();
    assert_eq!(results, [("zoe", 0), ("ann", 1)]);
}

#[test]
fn who_has_left_is_told_again_while_an_earlier_script_may_arrive() {
    let (channel_id, mut channel) = room();
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.add_connection(&member("ann"));
    let lost = channel.begin_membership_update(&channel_id);
    channel.membership.under_way = false;
    channel.membership_update_failed(Instant::now());
    assert!(channel.membership.is_uncertain(Instant::now()));
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.mark_dirty(&lost.users);
    presence.remove_connection(&member("ann"));
    let gone = channel.begin_membership_update(&channel_id);
    assert_eq!(gone.users[0].count, 0);
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.acknowledge(&gone.users[0], true);
    presence.mark_all_dirty();
    let again = presence.take_dirty();
    assert_eq!((again.len(), again[0].count), (1, 0));
    presence.acknowledge(&again[0], false);
    presence.mark_all_dirty();
    assert!(!presence.is_dirty());
}
