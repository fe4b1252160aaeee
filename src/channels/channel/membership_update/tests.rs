//! The membership updates of a presence channel.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::channel::ChannelId;
use crate::presence::Member;

fn member(user: &str) -> Arc<Member> {
    Arc::new(Member::new(user.into(), Bytes::from_static(b"null")))
}

fn presence_channel() -> Channel {
    let mut channel = Channel::new(ChannelId::from_wire("1:presence-room").expect("a channel id"));
    channel.is_listening = true;
    channel
}

/// Sends one update as the channels do, and acknowledges all its users.
fn report(channel: &mut Channel) -> MembershipUpdate {
    let update = channel.prepare_membership_update().expect("a due update");
    channel.membership.reported = Some(update.count);
    let presence = channel.presence.as_mut().expect("a presence channel");
    update.users.iter().for_each(|user| presence.acknowledge(user, false));
    update
}

#[test]
fn membership_count_stays_positive_until_all_departures_are_reported() {
    let mut channel = presence_channel();
    let users: Vec<_> = (0..limits::UPDATED_USERS_MAX + 50).map(|n| member(&format!("user-{n}"))).collect();
    let presence = channel.presence.as_mut().expect("a presence channel");
    users.iter().for_each(|user| presence.add_connection(user));
    while channel.needs_membership_update() {
        report(&mut channel);
    }
    let presence = channel.presence.as_mut().expect("a presence channel");
    users.iter().for_each(|user| presence.remove_connection(user));
    let first = report(&mut channel);
    assert_eq!((first.users.len(), first.count), (limits::UPDATED_USERS_MAX, 1));
    let last = report(&mut channel);
    assert_eq!((last.users.len(), last.count), (50, 0));
    assert!(!channel.needs_membership_update());
}

#[test]
fn membership_update_lists_departures_before_arrivals() {
    let mut channel = presence_channel();
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.add_connection(&member("zoe"));
    report(&mut channel);
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.remove_connection(&member("zoe"));
    presence.add_connection(&member("ann"));
    let users = report(&mut channel).users;
    let reported: Vec<_> = users.iter().map(|user| (&*user.member.user_id, user.count)).collect();
    assert_eq!(reported, [("zoe", 0), ("ann", 1)]);
}

#[test]
fn departure_is_reported_again_while_an_earlier_update_may_arrive() {
    let mut channel = presence_channel();
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.add_connection(&member("ann"));
    let lost = channel.prepare_membership_update().expect("a due update");
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.mark_dirty(&lost.users);
    presence.remove_connection(&member("ann"));
    let departure = channel.prepare_membership_update().expect("a due update");
    assert_eq!(departure.users[0].count, 0);
    let presence = channel.presence.as_mut().expect("a presence channel");
    presence.acknowledge(&departure.users[0], true);
    presence.mark_all_dirty();
    let again = presence.take_dirty();
    assert_eq!((again.len(), again[0].count), (1, 0));
    presence.acknowledge(&again[0], false);
    presence.mark_all_dirty();
    assert!(!presence.is_dirty());
}
