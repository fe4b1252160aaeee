//! Every protocol feature through real clients, pusher-js and Laravel Echo, in a
//! browser and in Node, through HAProxy to three nodes.
//!
//! The clients report the received events (`tests/clients/features`), and this test
//! has the expected ones. The page shows both; its screenshot is in `target/tmp`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::haproxy::Site;
use crate::support::web_app::{Run, WebApp};
use crate::support::{AppSpec, bounded};

const LIBRARIES: [&str; 2] = ["pusher-js", "laravel-echo"];

/// A screenshot of a page with text is larger than this.
const SCREENSHOT_BYTES_MIN: u64 = 10_000;

#[tokio::test]
async fn chromium_uses_every_feature_of_a_cluster() {
    bounded(async {
        let site = site().await;
        let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("features.png");
        // The screenshot checked below must be from this run.
        let _ = std::fs::remove_file(&screenshot);
        let run = WebApp::start(&site).run_in_chromium(&expected(), &screenshot).await;
        println!("screenshot: {}", screenshot.display());
        check(&run);
        let size = std::fs::metadata(&screenshot).unwrap().len();
        assert!(size > SCREENSHOT_BYTES_MIN, "{} has only {size} bytes", screenshot.display());
        every_node_was_used(&site).await;
    })
    .await;
}

#[tokio::test]
async fn node_uses_every_feature_of_a_cluster() {
    bounded(async {
        let site = site().await;
        let run = WebApp::start(&site).run_in_node(&expected()).await;
        check(&run);
        every_node_was_used(&site).await;
    })
    .await;
}

/// Client libraries require a numeric app id.
async fn site() -> Site {
    let app = AppSpec::new("1001")
        .set("enable_client_messages", true)
        .set("enable_watchlist_events", true)
        .set("enable_subscription_count", true);
    Site::start_with(app, "").await
}

/// Checks that each feature ran once with each library, with the expected result.
fn check(run: &Run) {
    let mut failures = String::new();
    for library in LIBRARIES {
        for (feature, expected) in features(library).as_object().unwrap() {
            let of_feature =
                |result: &&Value| result["library"] == library && result["feature"] == feature.as_str();
            let results: Vec<&Value> = run.results.iter().filter(of_feature).collect();
            if results.len() != 1 || results[0]["seen"] != *expected {
                failures += &failure(library, feature, expected, &results);
            }
        }
    }
    assert!(failures.is_empty(), "{failures}\nconsole:\n  {}", run.console.join("\n  "));
    let all = features("").as_object().unwrap().len() * LIBRARIES.len();
    assert_eq!(run.results.len(), all, "a feature without an expectation in this test");
    assert!(run.results.iter().all(|result| result["passed"] == true), "the page shows a failure");
}

fn failure(library: &str, feature: &str, expected: &Value, results: &[&Value]) -> String {
    let mut text = format!("\n{library}: {feature}\n  expected {expected}\n");
    for result in results {
        let seen = result.get("seen").or(result.get("error")).unwrap_or(&Value::Null);
        text += &format!("  saw      {seen}\n");
        for word in result["words"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text += &format!("  | {}\n", word.trim_end());
        }
    }
    text
}

async fn every_node_was_used(site: &Site) {
    for node in &site.nodes {
        let opened = node.metrics().await.sum("fanfare_connections_opened_total");
        assert!(opened > 0.0, "HAProxy sent no connection to one of the nodes");
    }
}

fn expected() -> Value {
    LIBRARIES.map(|library| (library, features(library))).into_iter().collect()
}

/// The expected events of each feature. Each library has users of its own.
fn features(library: &str) -> Value {
    let id = |name: &str| format!("{name}@{library}");
    let order = json!([["first", { "text": "čeština \"♪\"" }], ["App\\Events\\Shipped", { "number": 2 }]]);
    let secret = json!([["secret", { "number": 1 }]]);
    let sealed = json!([["sealed", { "number": 1 }], ["sealed", { "number": 2 }]]);
    let price = |euro: u32| json!(["price", { "euro": euro }]);
    json!({
        "public": { "ann": order, "bob": order },
        "private": { "ann": secret, "bob": secret, "eve": 401 },
        "encrypted": { "ann": sealed, "bob": sealed },
        "cache": { "ann": [["pusher:cache_miss", {}], price(1), price(2)], "bob": [price(1), price(2)] },
        "presence": {
            "here": [["Ann"], ["Ann", "Bob"], ["Ann", "Bob"], ["Ann", "Bob", "Carol"]],
            "users": [id("ann"), id("bob"), id("carol")],
            "ann": [["joined", "Bob"], ["joined", "Carol"], ["left", "Bob"], ["left", "Carol"]],
        },
        "client_events": {
            "ann": [["after", {}]],
            "bob": [["typing", { "by": "ann" }], ["after", {}]],
        },
        "client_events_of_members": { "bob": [["typing", { "user_id": "somebody else" }, id("ann")]] },
        "to_others": { "ann": [["all", {}]], "bob": [["others", {}], ["all", {}]] },
        "subscription_count": { "ann": [1, 2, 1] },
        "sign_in": { "ann": { "id": id("ann"), "user_info": { "name": "Ann" } } },
        "presence_of_signed_in": { "here": [["Ann"], ["Ann", "Bob"]] },
        "watchlist": {
            "wanda": [
                ["offline", [id("vera"), id("victor")]],
                ["online", [id("victor")]],
                ["online", [id("vera")]],
                ["offline", [id("victor")]],
            ],
        },
        "server_to_user": {
            "tab": [["greeting", { "text": "hello, ann" }]],
            "otherTab": [["greeting", { "text": "hello, ann" }]],
            "bob": [["after", {}]],
        },
        "terminate": { "ann": [["disconnected", 4009], ["disconnected", 4009]], "bob": "connected" },
    })
}
