//! Watchlists (protocol.md 2.10): the online status of watched users in the whole cluster.

use fanfare::limits;
use serde_json::json;

use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![
    watchlist_events_report_users_online_and_offline,
    watchlist_user_is_online_while_any_connection_is_signed_in,
];

fn app() -> AppSpec {
    AppSpec::new("4").set("enable_watchlist_events", true)
}

fn watching(users: &[&str]) -> String {
    json!({ "id": "eve", "watchlist": users }).to_string()
}

async fn watchlist_events_report_users_online_and_offline(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app()).start().await;
    let mut ann = cluster.second().browser("key4").await;
    ann.sign_in("ann").await;
    let mut eve = cluster.first().browser("key4").await;
    eve.sign_in_with(&watching(&["ann", "ben", "cy", "ben"])).await;
    let frame = eve.next().await;
    assert_eq!(
        frame.text,
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"ann\"]},{\"name\":\"offline\",\"user_ids\":[\"ben\",\"cy\"]}]}"}"#
    );
    let mut ben = cluster.second().browser("key4").await;
    ben.sign_in("ben").await;
    eve.expect_watchlist(&["ben"], &[]).await;
    ann.close().await;
    eve.expect_watchlist(&[], &["ann"]).await;
    drop(ben);
    eve.expect_watchlist(&[], &["ben"]).await;
}

async fn watchlist_user_is_online_while_any_connection_is_signed_in(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app()).start().await;
    let mut tabs = cluster.browsers("key4").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
    }
    let mut eve = cluster.first().browser("key4").await;
    eve.sign_in_with(&watching(&["ann", "ben"])).await;
    eve.expect_watchlist(&["ann"], &["ben"]).await;
    tabs.remove(0).close().await;
    // That sent no event: the next one is about ben.
    let mut ben = cluster.second().browser("key4").await;
    ben.sign_in("ben").await;
    eve.expect_watchlist(&["ben"], &[]).await;
    tabs.remove(0).close().await;
    eve.expect_watchlist(&[], &["ann"]).await;
}

/// A user is online by sign-in only, not by a connection or presence membership.
#[tokio::test]
async fn watchlist_user_without_signin_is_offline() {
    let server = Server::builder().app(app()).start().await;
    let mut ann = server.browser("key4").await;
    ann.join("presence-room", "ann").await;
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&["ann", "eve"])).await;
    eve.expect_watchlist(&["eve"], &["ann"]).await;
    ann.sign_in("ann").await;
    eve.expect_watchlist(&["ann"], &[]).await;
}

#[tokio::test]
async fn watchlist_above_the_limit_is_truncated() {
    let server = Server::builder().app(app()).start().await;
    let users: Vec<String> = (0..=limits::WATCHLIST_MAX).map(|number| format!("user{number:03}")).collect();
    let ids: Vec<&str> = users.iter().map(String::as_str).collect();
    let kept = &ids[..limits::WATCHLIST_MAX];
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&ids)).await;
    // Two frames follow the successful sign-in, in any order.
    let frames = [eve.next().await, eve.next().await];
    let code = |frame: &&crate::support::Frame| frame.event == "pusher:error" && frame.data["code"] == 4302;
    assert_eq!(frames.iter().filter(code).count(), 1, "{frames:?}");
    let report = frames.iter().find(|frame| frame.event == "pusher_internal:watchlist_events").unwrap();
    assert_eq!(report.data_json(), json!({ "events": [{ "name": "offline", "user_ids": kept }] }));
    let mut last = server.browser("key4").await;
    last.sign_in(ids[limits::WATCHLIST_MAX]).await;
    let mut first = server.browser("key4").await;
    first.sign_in(ids[0]).await;
    eve.expect_watchlist(&[ids[0]], &[]).await;
    // Duplicates do not count towards the limit.
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&[kept, kept].concat())).await;
    eve.expect_watchlist(&[ids[0]], &kept[1..]).await;
}

#[tokio::test]
async fn watchlist_is_ignored_when_disabled() {
    let server = Server::builder().start().await;
    let mut eve = server.browser("key1").await;
    let ids: Vec<String> = (0..=limits::WATCHLIST_MAX).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    eve.sign_in_with(&watching(&ids)).await;
    let mut other = server.browser("key1").await;
    other.sign_in("0").await;
    server.caller("1").publish("#server-to-user-eve", "marker", "").await;
    eve.expect_nothing_before("#server-to-user-eve", "marker").await;
}

/// No user can sign in with an invalid id. Such entries are skipped, and the other users are
/// watched.
#[tokio::test]
async fn watchlist_skips_invalid_user_ids() {
    let server = Server::builder().app(app()).start().await;
    let mut eve = server.browser("key4").await;
    let user_data = json!({ "id": "eve", "watchlist": ["", "a\nb", 7, "u".repeat(129)] }).to_string();
    eve.sign_in_with(&user_data).await;
    eve.expect_watchlist(&[], &["7"]).await;
    // An empty watchlist sends no event.
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&[])).await;
    server.caller("4").publish("#server-to-user-eve", "marker", "").await;
    eve.expect_nothing_before("#server-to-user-eve", "marker").await;
}
