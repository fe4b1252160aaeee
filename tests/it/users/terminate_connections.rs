//! `POST /apps/{id}/users/{uid}/terminate_connections` (protocol.md 1.7).

use fanfare::app::Secret;
use fanfare::auth;
use serde_json::json;

use crate::support::{Answer, Backend, Browser, Caller, Cluster, Server, on_both_backends};

on_both_backends![
    terminate_closes_all_connections_of_the_user_on_every_node,
    terminate_of_a_user_without_connections_succeeds,
];

async fn terminate(caller: &Caller, user: &str) -> Answer {
    caller.request("POST", &path(user)).body("{}").send().await
}

fn path(user: &str) -> String {
    format!("/users/{user}/terminate_connections")
}

/// Signs in as a user of app 1.
async fn sign_in(browser: &mut Browser, user: &str) {
    let user_data = json!({ "id": user }).to_string();
    let text = auth::signin_text(browser.socket_id(), &user_data);
    let auth = format!("key1:{}", auth::sign(&Secret::new("secret1"), &text));
    browser.send(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } })).await;
    let frame = browser.next().await;
    assert_eq!(frame.event, "pusher:signin_success", "{}", frame.text);
}

async fn terminate_closes_all_connections_of_the_user_on_every_node(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut tabs = cluster.browsers("key1").await;
    tabs.extend(cluster.browsers("key1").await);
    for tab in &mut tabs {
        sign_in(tab, "42").await;
    }
    let mut other = cluster.second().browser("key1").await;
    sign_in(&mut other, "43").await;
    // A presence member with that user id that has not signed in.
    let mut member = cluster.second().browser("key1").await;
    let data = json!({ "user_id": "42" }).to_string();
    let text = auth::subscription_text(member.socket_id(), "presence-room", Some(&data));
    let auth = format!("key1:{}", auth::sign(&Secret::new("secret1"), &text));
    member.subscribe_with("presence-room", json!({ "auth": auth, "channel_data": data })).await;

    assert_eq!(terminate(&caller, "42").await.expect_ok(), json!({}));

    for tab in &mut tabs {
        assert_eq!(tab.closed().await, 4009);
    }
    other.subscribe("news").await;
    member.subscribe("news").await;
    caller.publish("news", "still-connected", "").await;
    other.expect_event("news", "still-connected").await;
    member.expect_event("news", "still-connected").await;
    // The user may sign in again.
    let mut again = cluster.first().browser("key1").await;
    sign_in(&mut again, "42").await;
    again.settle().await;
}

async fn terminate_of_a_user_without_connections_succeeds(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    for user in ["nobody", "a;b,c@d=e.f:g_h-i", "a%3Bb%2Cc%40d", "1"] {
        assert_eq!(terminate(&caller, user).await.expect_ok(), json!({}), "{user}");
    }
}

#[tokio::test]
async fn terminate_accepts_any_body() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    let request = || caller.request("POST", &path("1"));
    for (case, request) in [
        ("no body", request()),
        ("no body and its MD5", request().body_md5(empty)),
        ("no body and no type", request().without_header("content-type")),
        ("an object", request().body("{}")),
        ("anything else", request().body("[1,")),
    ] {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{case}");
    }
    request().body("{}").without("body_md5").send().await.expect_error(401, "auth_failed");
    request().body("{}").body_md5(empty).send().await.expect_error(401, "auth_failed");
}

#[tokio::test]
async fn terminate_refuses_invalid_user_ids() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let long = "u".repeat(129);
    for user in ["a%0Ab", "%00", "%7F", "%C2%85", "%FF", long.as_str()] {
        let answer = terminate(&caller, user).await;
        assert_eq!(answer.status, 400, "{user}: {}", answer.text());
        answer.expect_error(400, "invalid_input").of_field("user_id");
    }
    terminate(&caller, "").await.expect_error(404, "not_found");
    for user in ["a%20b", "a%2Fb", "%23", "n%C3%A4chste", &"%F0%9F%8E%BA".repeat(128)] {
        terminate(&caller, user).await.expect_ok();
    }
}

#[tokio::test]
async fn terminate_without_valid_signature_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    caller.request("POST", &path("1")).secret("wrong").send().await.expect_error(401, "auth_failed");
    terminate(&server.caller("3"), "1").await.expect_error(403, "forbidden");
    caller.request("GET", &path("1")).send().await.expect_refused(405);
    caller.request("POST", "/users/1").send().await.expect_refused(404);
}
