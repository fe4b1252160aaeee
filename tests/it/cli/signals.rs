//! SIGHUP reloads the configuration; signals without a meaning end nothing.

use serde_json::json;

use crate::support::command::{PROGRAM, bare, run};
use crate::support::on_both_backends;
use crate::support::{AppSpec, Backend, Caller, Cluster, Redis, STEP_TIMEOUT, Server, Signal, bounded};

on_both_backends!(reload_adds_changes_and_removes_apps, reload_closes_connections_of_disabled_apps,);

fn event(channel: &str) -> serde_json::Value {
    json!({ "name": "e", "channel": channel, "data": "x" })
}

/// The part of the configuration file with an app.
fn app_toml(app: &AppSpec, more: &str) -> String {
    let AppSpec { id, key, secret, .. } = app;
    format!("[[apps]]\nid = \"{id}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n{more}\n")
}

/// The file without its apps.
fn without_apps(text: &str) -> String {
    text.split("[[apps]]").next().unwrap().to_owned()
}

async fn start(backend: Backend) -> Cluster {
    Cluster::builder(backend)
        .nodes(1)
        .without_apps()
        .app(AppSpec::new("1"))
        .app(AppSpec::new("7"))
        .start()
        .await
}

async fn reload_adds_changes_and_removes_apps(backend: Backend) {
    let cluster = start(backend).await;
    let node = cluster.first();
    let [one, seven, eight] = ["1", "7", "8"].map(AppSpec::new);
    let mut kept = node.browser("key1").await;
    let mut removed = node.browser("key7").await;
    kept.subscribe("news").await;
    removed.subscribe("news").await;
    let caller = |app: &AppSpec| Caller::new(node.addr(), app.clone());
    caller(&one).post_batch(json!([event("a"), event("b")])).await.expect_ok();

    node.edit_config(|text| {
        without_apps(&text) + &app_toml(&one, "max_event_batch_size = 1") + &app_toml(&eight, "")
    });
    node.reload().await;
    assert_eq!(removed.closed().await, 4001);
    assert_eq!(node.connect("/app/key7?protocol=7").await.closed().await, 4001);
    caller(&seven).post_events(event("news")).await.expect_error(404, "app_not_found");
    // The new limit applies, to a connection from before too.
    let batch = caller(&one).post_batch(json!([event("a"), event("b")])).await;
    batch.expect_error(400, "limit_exceeded");
    caller(&one).publish("news", "e", "x").await;
    kept.expect_event("news", "e").await;
    caller(&eight).post_events(event("news")).await.expect_ok();
    node.browser("key8").await;
}

async fn reload_closes_connections_of_disabled_apps(backend: Backend) {
    let cluster = start(backend).await;
    let node = cluster.first();
    let mut kept = node.browser("key1").await;
    let mut disabled = node.browser("key7").await;
    node.edit_config(|text| text.replace("secret = \"secret7\"", "secret = \"secret7\"\nenabled = false"));
    node.reload().await;
    assert_eq!(disabled.closed().await, 4003);
    node.caller("7").post_events(event("news")).await.expect_error(403, "forbidden");
    node.edit_config(|text| text.replace("enabled = false", ""));
    node.reload().await;
    node.browser("key7").await;
    kept.settle().await;
}

/// Clients of an app that was moved from the file to Redis notice nothing.
#[tokio::test]
async fn reload_keeps_connections_of_an_app_moved_to_redis() {
    bounded(async {
        let redis = Redis::start().await;
        let node = Server::builder().without_apps().app(AppSpec::new("7")).redis(&redis).start().await;
        let mut browser = node.browser("key7").await;
        browser.subscribe("news").await;
        let add = ["app", "add", "--id", "7", "--key", "key7"];
        run(bare(PROGRAM).args(add).env("FANFARE_REDIS", redis.url())).expect_ok();
        node.edit_config(|text| without_apps(&text));
        node.reload().await;
        browser.settle().await;
        node.browser("key7").await;
    })
    .await;
}

/// Whether the app is in Redis is not known: clients try again.
#[tokio::test]
async fn reload_without_redis_closes_connections_of_a_missing_app_with_4100() {
    bounded(async {
        let mut cluster = start(Backend::Redis).await;
        let mut kept = cluster.first().browser("key1").await;
        let mut missing = cluster.first().browser("key7").await;
        cluster.redis_mut().kill();
        let node = cluster.first();
        node.logged("connection to Redis lost").await;
        node.edit_config(|text| text.split("[[apps]]\nid = \"7\"").next().unwrap().to_owned());
        node.reload().await;
        assert_eq!(missing.closed().await, 4100);
        kept.settle().await;
    })
    .await;
}

/// Mistakes are reported, in one line, and nothing changes. The metrics show both outcomes.
#[tokio::test]
async fn reload_of_an_invalid_file_changes_nothing() {
    bounded(async {
        let node = Server::builder().without_apps().app(AppSpec::new("1")).start().await;
        let loaded = "fanfare_config_last_reload_success_timestamp_seconds";
        let metric = async |name: &str| node.metrics().await.sum(name);
        let is_successful = async || metric("fanfare_config_last_reload_successful").await;
        let at_start = metric(loaded).await;
        assert!(at_start > 1.7e9 && is_successful().await == 1.0);

        node.edit_config(|text| format!("activity_timeot = 1\n{text}[[apps]]\nid = \"8\"\nkey = \"key8\"\n"));
        node.reload().await;
        let line = node.logged("configuration not reloaded").await;
        for word in ["\"level\":\"ERROR\"", "activity_timeot", "line 1", "apps[1].secret"] {
            assert!(line.contains(word), "{word} is not in {line}");
        }
        assert_eq!(is_successful().await, 0.0);
        assert_eq!(metric(loaded).await, at_start);
        let series = node.metrics().await.0;
        assert_eq!(series["fanfare_config_reloads_total{result=\"failure\"}"], 1.0);
        assert_eq!(series["fanfare_config_reloads_total{result=\"success\"}"], 0.0);
        node.caller("1").publish("news", "e", "x").await;
        assert_eq!(node.connect("/app/key8?protocol=7").await.closed().await, 4001);

        node.edit_config(|text| text.replace("activity_timeot = 1", "") + "secret = \"secret8\"\n");
        node.reload().await;
        assert_eq!(is_successful().await, 1.0);
        assert!(metric(loaded).await > at_start);
        node.browser("key8").await;
    })
    .await;
}

/// The filter of the log changes; settings that need a restart are named.
#[tokio::test]
async fn reload_changes_the_log_filter_and_names_settings_that_need_a_restart() {
    bounded(async {
        let node = Server::builder().start().await;
        let wrong = async || {
            let caller = node.caller("1");
            caller.events(&event("news")).secret("another").send().await.expect_error(401, "auth_failed");
        };
        wrong().await;
        node.edit_config(|text| format!("log = \"debug\"\npath_prefix = \"/x\"\n{text}"));
        node.reload().await;
        let line = node.logged("take effect after a restart").await;
        assert!(line.contains("\"settings\":\"path_prefix\""), "{line}");
        assert!(!node.log().contains("signature refused"), "{}", node.log());
        wrong().await;
        node.logged("signature refused").await;
        node.get("/x/live").await.expect_error(404, "not_found");
    })
    .await;
}

/// Its default is to end the process at once.
#[tokio::test]
async fn sigquit_drains() {
    bounded(async {
        let mut node = Server::builder().config("drain_delay = 0\ndrain_window = 0").start().await;
        let mut browser = node.browser("key1").await;
        node.signal(Signal::Quit);
        assert_eq!(browser.closed().await, 4200);
        let status = node.wait_exit(STEP_TIMEOUT).await;
        assert!(status.success(), "{status}: {}", node.log());
    })
    .await;
}

/// A reload would have no effect while the node drains.
#[tokio::test]
async fn sighup_during_a_drain_is_ignored() {
    bounded(async {
        let mut node = Server::builder().config("drain_delay = 1\ndrain_window = 0").start().await;
        node.signal(Signal::Terminate);
        node.logged("\"draining\"").await;
        node.signal(Signal::HangUp);
        let status = node.wait_exit(STEP_TIMEOUT).await;
        assert!(status.success(), "{status}: {}", node.log());
        assert!(!node.log().contains("reloaded"), "{}", node.log());
    })
    .await;
}

#[tokio::test]
async fn signals_without_a_meaning_are_ignored() {
    bounded(async {
        let node = Server::builder().start().await;
        let mut browser = node.browser("key1").await;
        for (signal, name) in [(Signal::User1, "SIGUSR1"), (Signal::Alarm, "SIGALRM")] {
            node.signal(signal);
            let line = node.logged(name).await;
            assert!(line.contains("signal ignored"), "{line}");
        }
        browser.subscribe("news").await;
    })
    .await;
}
