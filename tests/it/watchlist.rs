//! Watchlists (protocol.md 2.10): who of some users is online, anywhere.

use fanfare::limits;
use serde_json::json;

use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![a_watcher_is_told_who_comes_and_who_goes, a_user_is_online_while_any_connection_is,];

fn app() -> AppSpec {
    AppSpec::new("4").set("enable_watchlist_events", true)
}

fn watching(users: &[&str]) -> String {
    json!({ "id": "eve", "watchlist": users }).to_string()
}

async fn a_watcher_is_told_who_comes_and_who_goes(backend: Backend) {
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

async fn a_user_is_online_while_any_connection_is(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app()).start().await;
    let mut tabs = cluster.browsers("key4").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
    }
    let mut eve = cluster.first().browser("key4").await;
    eve.sign_in_with(&watching(&["ann", "ben"])).await;
    eve.expect_watchlist(&["ann"], &["ben"]).await;
    tabs.remove(0).close().await;
    // Nothing was said of that: what comes next is ben.
    let mut ben = cluster.second().browser("key4").await;
    ben.sign_in("ben").await;
    eve.expect_watchlist(&["ben"], &[]).await;
    tabs.remove(0).close().await;
    eve.expect_watchlist(&[], &["ann"]).await;
}

/// To be a member of a channel, or to be connected, is not to be signed in.
#[tokio::test]
async fn only_who_signs_in_is_online() {
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
async fn a_list_that_is_too_long_is_cut() {
    let server = Server::builder().app(app()).start().await;
    let users: Vec<String> = (0..=limits::WATCHLIST_MAX).map(|number| format!("user{number:03}")).collect();
    let ids: Vec<&str> = users.iter().map(String::as_str).collect();
    let kept = &ids[..limits::WATCHLIST_MAX];
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&ids)).await;
    // The sign-in has succeeded, and is followed by two frames in any order.
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
    // As many as are allowed are not too many, however often they are named.
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&[kept, kept].concat())).await;
    eve.expect_watchlist(&[ids[0]], &kept[1..]).await;
}

#[tokio::test]
async fn a_list_is_of_no_use_where_it_is_not_enabled() {
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

/// Nobody can sign in with such an id: it does not keep others from being
/// watched.
#[tokio::test]
async fn ids_that_nobody_can_have_are_left_out() {
    let server = Server::builder().app(app()).start().await;
    let mut eve = server.browser("key4").await;
    let user_data = json!({ "id": "eve", "watchlist": ["", "a\nb", 7, "u".repeat(129)] }).to_string();
    eve.sign_in_with(&user_data).await;
    eve.expect_watchlist(&[], &["7"]).await;
    // Nobody at all is no news.
    let mut eve = server.browser("key4").await;
    eve.sign_in_with(&watching(&[])).await;
    server.caller("4").publish("#server-to-user-eve", "marker", "").await;
    eve.expect_nothing_before("#server-to-user-eve", "marker").await;
}
