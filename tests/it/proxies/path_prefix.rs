//! `path_prefix`: both APIs below a path, behind proxies that keep, strip or add the
//! prefix.

use serde_json::json;

use crate::support::{Server, http};

const GREETING: &str = "?protocol=7&client=js&version=8.6.0&flash=false";

async fn start(prefix: &str) -> Server {
    Server::builder().config(&format!("path_prefix = \"{prefix}\"")).start().await
}

#[tokio::test]
async fn path_prefix_serves_both_apis_at_the_root_and_below_the_prefix() {
    let server = start("/realtime/v1").await;
    let caller = server.caller("1");
    for prefix in ["", "/realtime/v1"] {
        let mut browser = server.connect(&format!("{prefix}/app/key1{GREETING}")).await;
        browser.expect_greeting().await;
        browser.subscribe("news").await;
        let event = json!({ "name": "e", "channel": "news", "data": prefix });
        let path = |path: &str| format!("{prefix}/apps/1{path}");
        caller.events(&event).path(&path("/events")).send().await.expect_ok();
        assert_eq!(browser.expect_event("news", "e").await.data_text(), prefix);
        let batch = json!([event]);
        caller.batch(&batch).path(&path("/batch_events")).send().await.expect_ok();
        browser.expect_event("news", "e").await;
        for (below, expected) in [
            ("/channels", json!({ "channels": { "news": {} } })),
            ("/channels/ne%77s", json!({ "occupied": true })),
            ("/channels/presence-a/users", json!({ "users": [] })),
        ] {
            let answer = caller.request("GET", "").path(&path(below)).send().await;
            assert_eq!(answer.expect_ok(), expected, "{below}");
        }
        let terminate = path("/users/1/terminate_connections");
        caller.request("POST", "").path(&terminate).send().await.expect_ok();
        for probe in ["/live", "/ready", "/up"] {
            assert_eq!(server.get(&format!("{prefix}{probe}")).await.status, 200, "{prefix}{probe}");
        }
        browser.close().await;
        caller.count_becomes("news", 0).await;
    }
    for path in
        ["/realtime", "/realtime/v1", "/realtime/v1/", "/realtime/live", "/realtime/v1/realtime/v1/live"]
    {
        server.get(path).await.expect_refused(404);
    }
    http::request(server.addr(), "GET", "/realtime/v1/apps/1/events").await.expect_refused(405);
}

/// The client signs the path that it sends; a proxy may change the prefix afterwards.
#[tokio::test]
async fn path_prefix_signatures_verify_with_and_without_the_prefix() {
    let server = start("/realtime").await;
    let caller = server.caller("1");
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    let (bare, prefixed) = ("/apps/1/events", "/realtime/apps/1/events");
    for (sent, signed) in [(bare, bare), (bare, prefixed), (prefixed, bare), (prefixed, prefixed)] {
        let request = || caller.events(&event).path(sent).signed_as(signed);
        request().send().await.expect_ok();
        request().secret("wrong").send().await.expect_error(401, "auth_failed");
    }
    for signed in
        ["/real/apps/1/events", "/realtime/apps/2/events", "/realtime", "/realtime/realtime/apps/1/events"]
    {
        for sent in [bare, prefixed] {
            let answer = caller.events(&event).path(sent).signed_as(signed).send().await;
            answer.expect_error(401, "auth_failed");
        }
    }
    // Libraries sign arrays in the query in two ways; both verify with either path.
    for signed in ["/apps/1/channels", "/realtime/apps/1/channels"] {
        let request = || caller.request("GET", "").path("/realtime/apps/1/channels").signed_as(signed);
        request().query("a[]", "z").query("a[]", "b").send().await.expect_ok();
        request().query_as("a", "z,b", "a[]=z&a[]=b").send().await.expect_ok();
    }
    let unknown = caller.events(&event).path("/realtime/apps/9/events").send().await;
    unknown.expect_error(404, "app_not_found");
}

#[tokio::test]
async fn path_prefix_unset_refuses_prefixed_paths() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    caller.events(&event).path("/realtime/apps/1/events").send().await.expect_error(404, "not_found");
    let answer = caller.events(&event).signed_as("/realtime/apps/1/events").send().await;
    answer.expect_error(401, "auth_failed");
}
