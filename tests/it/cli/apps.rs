//! Apps stored in Redis and managed with `fanfare app` while nodes run.

use serde_json::json;

use crate::support::command::{CommandOutput, PROGRAM, SecretFile, bare, fanfare, run};
use crate::support::websocket::pusher_path;
use crate::support::{
    AppSpec, Backend, Browser, Caller, Cluster, Links, Port, Redis, STEP_TIMEOUT, Server, bounded, eventually,
};

/// Two nodes without configured apps, on one Redis.
async fn start() -> Cluster {
    Cluster::builder(Backend::Redis).without_apps().start().await
}

/// Runs `fanfare app …` and returns when both nodes have received the change.
async fn change(cluster: &Cluster, args: &[&str]) -> String {
    let before = cluster.metric(CHANGES).await;
    let out = app(cluster.redis(), args).expect_ok();
    for (node, before) in cluster.nodes.iter().zip(before) {
        change_arrives(node, before).await;
    }
    out
}

async fn add(cluster: &Cluster, spec: &AppSpec) {
    let AppSpec { id, key, secret, .. } = spec;
    let secret = SecretFile::new(secret);
    change(cluster, &["add", "--id", id, "--key", key, "--secret-file", secret.path()]).await;
}

fn app(redis: &Redis, args: &[&str]) -> CommandOutput {
    run(bare(PROGRAM).arg("app").args(args).env("FANFARE_REDIS", redis.url()))
}

const CHANGES: &str = "fanfare_app_changes_total";

async fn changes_received(node: &Server) -> f64 {
    node.metrics().await.sum(CHANGES)
}

async fn change_arrives(node: &Server, before: f64) {
    eventually("an app change arrives", STEP_TIMEOUT, async || match changes_received(node).await {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    })
    .await;
}

/// A browser of this app, before the server's first frame.
async fn connect(node: &Server, app: &AppSpec) -> Browser {
    Browser::connect(node.addr(), &pusher_path(&app.key), Some(app.clone())).await.expect("an upgrade")
}

async fn browser(node: &Server, app: &AppSpec) -> Browser {
    let mut browser = connect(node, app).await;
    browser.expect_greeting().await;
    browser
}

fn caller(node: &Server, app: &AppSpec) -> Caller {
    Caller::new(node.addr(), app.clone())
}

fn event() -> serde_json::Value {
    json!({ "name": "e", "channel": "news", "data": "x" })
}

#[tokio::test]
async fn added_app_is_usable_on_every_node() {
    bounded(async {
        let cluster = start().await;
        let seven = AppSpec::new("7");
        // Nodes cache that no app has this key and this id.
        for node in &cluster.nodes {
            assert_eq!(connect(node, &seven).await.closed().await, 4001);
            caller(node, &seven).post_events(event()).await.expect_error(404, "app_not_found");
        }
        add(&cluster, &seven).await;
        let mut browsers =
            [browser(&cluster.nodes[0], &seven).await, browser(&cluster.nodes[1], &seven).await];
        for browser in &mut browsers {
            browser.subscribe("news").await;
        }
        for node in &cluster.nodes {
            caller(node, &seven).publish("news", "e", "x").await;
            for browser in &mut browsers {
                browser.expect_event("news", "e").await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn disabled_app_is_refused_until_enabled() {
    bounded(async {
        let cluster = start().await;
        let (seven, eight) = (AppSpec::new("7"), AppSpec::new("8"));
        add(&cluster, &seven).await;
        add(&cluster, &eight).await;
        let mut others = [browser(&cluster.nodes[0], &eight).await, browser(&cluster.nodes[1], &eight).await];
        let mut browsers =
            [browser(&cluster.nodes[0], &seven).await, browser(&cluster.nodes[1], &seven).await];
        change(&cluster, &["disable", "7"]).await;
        for browser in &mut browsers {
            assert_eq!(browser.closed().await, 4003);
        }
        for node in &cluster.nodes {
            caller(node, &seven).post_events(event()).await.expect_error(403, "forbidden");
            assert_eq!(connect(node, &seven).await.closed().await, 4003);
        }
        change(&cluster, &["enable", "7"]).await;
        for (node, other) in cluster.nodes.iter().zip(&mut others) {
            caller(node, &seven).post_events(event()).await.expect_ok();
            browser(node, &seven).await;
            other.settle().await;
        }
    })
    .await;
}

#[tokio::test]
async fn secret_rotation_accepts_old_and_new_until_old_is_dropped() {
    bounded(async {
        let cluster = start().await;
        let old = AppSpec::new("7");
        add(&cluster, &old).await;
        let mut early = browser(&cluster.nodes[1], &old).await;
        let output = change(&cluster, &["rotate", "7"]).await;
        let mut new = old.clone();
        new.secret = output.lines().find_map(|line| line.strip_prefix("PUSHER_APP_SECRET=")).unwrap().into();
        assert_eq!(new.secret.len(), 40);
        for (node, app) in cluster.nodes.iter().flat_map(|node| [(node, &old), (node, &new)]) {
            caller(node, app).post_events(event()).await.expect_ok();
            browser(node, app).await.subscribe("private-room").await;
        }
        // A socket from before the rotation is not disconnected.
        early.subscribe("private-old").await;
        let signer = browser(&cluster.nodes[1], &new).await;
        let text = fanfare::auth::subscription_text(early.socket_id(), "private-new", None);
        let secret = fanfare::app::Secret::new(new.secret.as_str());
        let auth = format!("key7:{}", fanfare::auth::sign(&secret, &text));
        early.subscribe_raw(json!({ "channel": "private-new", "auth": auth })).await;
        early.confirmed("private-new").await;
        drop(signer);

        change(&cluster, &["rotate", "7", "--drop-old"]).await;
        for node in &cluster.nodes {
            caller(node, &new).post_events(event()).await.expect_ok();
            caller(node, &old).post_events(event()).await.expect_error(401, "auth_failed");
        }
        early.request_subscription("private-late").await;
        early.expect_subscription_error("private-late").await;
    })
    .await;
}

#[tokio::test]
async fn removed_app_id_and_key_can_be_reused() {
    bounded(async {
        let cluster = start().await;
        let seven = AppSpec::new("7");
        add(&cluster, &seven).await;
        let mut browsers =
            [browser(&cluster.nodes[0], &seven).await, browser(&cluster.nodes[1], &seven).await];
        caller(&cluster.nodes[0], &seven).post_events(event()).await.expect_ok();
        change(&cluster, &["remove", "7"]).await;
        for (node, browser) in cluster.nodes.iter().zip(&mut browsers) {
            assert_eq!(browser.closed().await, 4001);
            assert_eq!(connect(node, &seven).await.closed().await, 4001);
            caller(node, &seven).post_events(event()).await.expect_error(404, "app_not_found");
        }
        app(cluster.redis(), &["disable", "7"]).expect_failure(&["no app 7"]);
        // The same id with another key, and the old key for another id.
        let mut again = AppSpec::new("7");
        again.key = "other".into();
        add(&cluster, &again).await;
        let mut eight = AppSpec::new("8");
        eight.key = seven.key.clone();
        add(&cluster, &eight).await;
        for node in &cluster.nodes {
            browser(node, &again).await.subscribe("private-room").await;
            browser(node, &eight).await.subscribe("private-room").await;
            caller(node, &again).post_events(event()).await.expect_ok();
            caller(node, &eight).post_events(event()).await.expect_ok();
        }
    })
    .await;
}

/// Changes during a lost subscription are applied once the node has reconnected.
#[tokio::test]
async fn app_change_during_lost_subscription_is_applied_after_reconnect() {
    bounded(async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let (node, proxy, redis) = (cluster.first(), cluster.proxy(), cluster.redis());
        let specs = ["7", "8", "9"].map(AppSpec::new);
        for AppSpec { id, key, secret, .. } in &specs {
            let secret = SecretFile::new(secret);
            app(redis, &["add", "--id", id, "--key", key, "--secret-file", secret.path()]).expect_ok();
        }
        let [seven, eight, nine] = &specs;
        let (mut a, mut b) = (browser(node, seven).await, browser(node, eight).await);
        let mut c = browser(node, nine).await;
        let before = changes_received(node).await;
        proxy.cut(Links::Subscriber);
        app(redis, &["disable", "7"]).expect_ok();
        app(redis, &["remove", "8"]).expect_ok();
        proxy.heal();
        change_arrives(node, before).await;
        assert_eq!(a.closed().await, 4003);
        assert_eq!(b.closed().await, 4001);
        c.settle().await;
        caller(node, seven).post_events(event()).await.expect_error(403, "forbidden");
    })
    .await;
}

/// A client that receives 4001 never reconnects: an app that Redis has lost must
/// not be handled as an app that an operator has removed.
#[tokio::test]
async fn sockets_survive_redis_data_loss() {
    bounded(async {
        let mut cluster = start().await;
        let seven = AppSpec::new("7");
        add(&cluster, &seven).await;
        let mut browsers =
            [browser(&cluster.nodes[0], &seven).await, browser(&cluster.nodes[1], &seven).await];
        let before = cluster.metric(CHANGES).await;
        cluster.redis_mut().restart().await;
        for ((node, browser), before) in cluster.nodes.iter().zip(&mut browsers).zip(before) {
            change_arrives(node, before).await;
            caller(node, &seven).post_events(event()).await.expect_error(404, "app_not_found");
            browser.settle().await;
        }
    })
    .await;
}

#[tokio::test]
async fn cached_app_stays_usable_while_redis_is_down() {
    bounded(async {
        let mut cluster = start().await;
        let (seven, eight) = (AppSpec::new("7"), AppSpec::new("8"));
        add(&cluster, &seven).await;
        add(&cluster, &eight).await;
        browser(cluster.first(), &seven).await;
        cluster.redis_mut().kill();
        let node = cluster.first();
        eventually("the publish fails without Redis", STEP_TIMEOUT, async || {
            match caller(node, &eight).post_events(event()).await.status {
                503 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
        caller(node, &eight).post_events(event()).await.expect_error(503, "service_unavailable");
        assert_eq!(connect(node, &eight).await.closed().await, 4100);
        browser(node, &seven).await;
    })
    .await;
}

/// An unknown key is looked up once, and refused connections delay no others.
#[tokio::test]
async fn unknown_app_key_is_looked_up_once() {
    bounded(async {
        let cluster = start().await;
        let node = &cluster.nodes[0];
        let lookups = async || node.metrics().await.sum("fanfare_app_lookups_total");
        let before = lookups().await;
        let unknown = AppSpec::new("unknown");
        let many = (0..20).map(async |_| connect(node, &unknown).await.closed().await);
        let codes = futures_util::future::join_all(many).await;
        assert!(codes.iter().all(|code| *code == 4001), "{codes:?}");
        let looked_up = lookups().await - before;
        assert!((1.0..=3.0).contains(&looked_up), "{looked_up} look-ups");
        // An impossible key is not looked up at all.
        let mut absurd = AppSpec::new("1");
        absurd.key = "k".repeat(300);
        let before = lookups().await;
        assert_eq!(connect(node, &absurd).await.closed().await, 4001);
        assert_eq!(lookups().await, before);
    })
    .await;
}

/// A nested table, from the command line through Redis to the confirmation on each
/// channel.
#[tokio::test]
async fn channel_delta_compression_is_stored_with_app() {
    bounded(async {
        let cluster = start().await;
        let deltas = r#"{ "quiet-*" = { enabled = false }, "m-*" = { conflation_key = "asset.id" } }"#;
        let set = format!("channel_delta_compression={deltas}");
        let seven = AppSpec::new("7");
        let secret = SecretFile::new(&seven.secret);
        let credentials = ["--id", "7", "--key", &seven.key, "--secret-file", secret.path()];
        change(&cluster, &[&["add"], &credentials[..], &["--set", &set]].concat()).await;
        let stored = cluster.redis().command(&["HGET", "fanfare:{nodes}:apps", "7"]).await.text();
        assert!(stored.contains("conflation_key = \"asset.id\""), "{stored}");
        for node in &cluster.nodes {
            let mut browser = browser(node, &seven).await;
            for (channel, permitted) in [("quiet-room", false), ("m-room", true), ("room", true)] {
                let data = json!({ "channel": channel, "delta": true });
                browser.send(json!({ "event": "pusher:subscribe", "data": data })).await;
                browser.expect_event(channel, "pusher_internal:subscription_succeeded").await;
                let frame = browser.expect_event(channel, "pusher:delta_compression_enabled").await;
                assert_eq!(frame.data["enabled"], permitted, "{}", frame.text);
                if channel == "m-room" {
                    let frame = browser.expect_event(channel, "pusher:delta_cache_sync").await;
                    assert!(frame.text.contains("asset.id"), "{}", frame.text);
                }
            }
        }
    })
    .await;
}

// --- output of the command ---------------------------------------------------------

#[tokio::test]
async fn app_add_generates_key_and_secret_and_prints_them_once() {
    let redis = Redis::start().await;
    let out = app(
        &redis,
        &["add", "--id", "7", "--set", "max_connections=5", "--set", "enable_client_messages=true"],
    );
    let out = out.expect_ok();
    let output_value =
        |name: &str| out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    let (key, secret) = (output_value("PUSHER_APP_KEY="), output_value("PUSHER_APP_SECRET="));
    assert_eq!((output_value("PUSHER_APP_ID=").as_str(), key.len(), secret.len()), ("7", 20, 40), "{out}");
    app(&redis, &["add", "--id", "12345", "--key", "k"]).expect_ok();
    app(&redis, &["disable", "12345"]).expect_ok();
    let listed = app(&redis, &["list"]).expect_ok();
    assert_eq!(
        listed,
        format!("ID     KEY                   STATE\n12345  {:20}  disabled\n7      {key}  enabled\n", "k")
    );
    assert!(!listed.contains(&secret));
    let stored = redis.command(&["HGET", "fanfare:{nodes}:apps", "7"]).await.text();
    assert_eq!(
        stored,
        format!(
            "id = \"7\"\nkey = \"{key}\"\nsecret = \"{secret}\"\nmax_connections = 5\nenable_client_messages = true\n"
        )
    );
}

#[tokio::test]
async fn invalid_app_commands_fail_with_reason() {
    let redis = Redis::start().await;
    app(&redis, &["add", "--id", "7", "--key", "k"]).expect_ok();
    app(&redis, &["add", "--id", "7"]).expect_failure(&["app 7", "an app of this id"]);
    app(&redis, &["add", "--id", "8", "--key", "k"]).expect_failure(&["app 8", "this key"]);
    app(&redis, &["add", "--id", "8", "--set", "max_conections=5"]).expect_failure(&[
        "max_conections",
        "`apps.max_connections`",
        "command line",
    ]);
    app(&redis, &["add", "--id", "8", "--set", "webhooks=[{url=\"ftp://a\"}]"])
        .expect_failure(&["webhooks[0].url", "http://"]);
    let deltas = "channel_delta_compression={\"m-*\"={conflation_key=\"a..b\"},b=\"off\"}";
    app(&redis, &["add", "--id", "8", "--set", deltas]).expect_failure(&[
        "channel_delta_compression.m-*.conflation_key",
        "channel_delta_compression.b`",
        "\"inherit\"",
    ]);
    app(&redis, &["add", "--id", "a/b"]).expect_failure(&["apps[0].id"]);
    app(&redis, &["add", "--id", "8", "--set", "secret=x"]).expect_failure(&["secret=x"]);
    assert!(!app(&redis, &["list"]).expect_ok().contains("\n8"), "a failed command changes nothing");
    for verb in ["disable", "enable", "rotate", "remove"] {
        app(&redis, &[verb, "8"]).expect_failure(&["no app 8"]);
    }
    fanfare(&["app", "list"]).expect_failure(&["--redis", "FANFARE_REDIS"]);
    let nowhere = Port::hold();
    let nowhere_url = format!("redis://:hush@{}", nowhere.addr());
    let output = fanfare(&["app", "list", "--redis", &nowhere_url]).expect_failure(&["Redis"]);
    assert!(!output.contains("hush"), "{output}");
}

#[tokio::test]
async fn redis_prefix_separates_apps() {
    let redis = Redis::start().await;
    app(&redis, &["add", "--id", "7", "--redis-prefix", "staging"]).expect_ok();
    assert!(!app(&redis, &["list"]).expect_ok().contains('7'));
    assert!(app(&redis, &["--redis-prefix", "staging", "list"]).expect_ok().contains('7'));
    // As the nodes read it.
    let config = SecretFile::new(&format!("redis = \"{}\"\nredis_prefix = \"staging\"\n", redis.url()));
    assert!(fanfare(&["app", "list", "--config", config.path()]).expect_ok().contains('7'));
}

/// The named settings change, on all nodes; the others and the credentials stay.
#[tokio::test]
async fn app_set_changes_settings_of_a_stored_app() {
    bounded(async {
        let cluster = start().await;
        let seven = AppSpec::new("7");
        add(&cluster, &seven).await;
        let batch = json!([event(), event()]);
        for node in &cluster.nodes {
            caller(node, &seven).post_batch(batch.clone()).await.expect_ok();
        }
        let more = SecretFile::new("decay_seconds = 2\nmax_connections = 5\n");
        let args = ["set", "7", "max_event_batch_size=1", "max_connections=6", "--file", more.path()];
        assert_eq!(change(&cluster, &args).await, "app 7 is changed\n");
        for node in &cluster.nodes {
            let refused = caller(node, &seven).post_batch(batch.clone()).await;
            refused.expect_error(400, "limit_exceeded");
        }
        let stored = async || cluster.redis().command(&["HGET", "fanfare:{nodes}:apps", "7"]).await.text();
        let credentials = "id = \"7\"\nkey = \"key7\"\nsecret = \"secret7\"\n";
        let rest = "max_event_batch_size = 1\nmax_connections = 6\ndecay_seconds = 2\n";
        assert_eq!(stored().await, [credentials, rest].concat());
        let args = ["set", "7", "--unset", "max_event_batch_size", "--unset", "decay_seconds"];
        change(&cluster, &args).await;
        assert_eq!(stored().await, [credentials, "max_connections = 6\n"].concat());
        for node in &cluster.nodes {
            caller(node, &seven).post_batch(batch.clone()).await.expect_ok();
        }
        for (args, words) in [
            (&["set", "7", "max_connections=many"][..], &["`apps[0].max_connections`", "many"][..]),
            (&["set", "7", "max_conections=5"], &["max_conections", "`apps.max_connections`"]),
            (&["set", "7", "secret=x"], &["secret=x"]),
            (&["set", "7", "--unset", "key"], &["`key`"]),
            (&["set", "8", "max_connections=5"], &["no app 8"]),
        ] {
            app(cluster.redis(), args).expect_failure(words);
        }
        assert_eq!(stored().await, [credentials, "max_connections = 6\n"].concat());
    })
    .await;
}

/// Changes of different settings at the same time are all stored.
#[tokio::test]
async fn concurrent_changes_of_settings_are_all_stored() {
    bounded(async {
        let redis = Redis::start().await;
        app(&redis, &["add", "--id", "7"]).expect_ok();
        let settings = ["max_connections=5", "decay_seconds=2", "max_event_batch_size=3"];
        let changes: Vec<_> = settings
            .map(|setting| {
                let url = redis.url();
                std::thread::spawn(move || {
                    fanfare(&["app", "set", "7", setting, "--redis", &url]).expect_ok()
                })
            })
            .into();
        changes.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        let stored = redis.command(&["HGET", "fanfare:{nodes}:apps", "7"]).await.text();
        for setting in settings {
            assert!(stored.contains(&setting.replace('=', " = ")), "{setting} is not in {stored}");
        }
    })
    .await;
}

/// Concurrent changes of one app are applied one after the other.
#[tokio::test]
async fn concurrent_rotations_are_all_stored() {
    bounded(async {
        let redis = Redis::start().await;
        let first = SecretFile::new("first\n");
        app(&redis, &["add", "--id", "7", "--secret-file", first.path()]).expect_ok();
        let rotations: Vec<_> = (0..3)
            .map(|_| {
                let url = redis.url();
                std::thread::spawn(move || fanfare(&["app", "rotate", "7", "--redis", &url]).expect_ok())
            })
            .collect();
        let new: Vec<String> = rotations.into_iter().map(|thread| thread.join().unwrap()).collect();
        let stored = redis.command(&["HGET", "fanfare:{nodes}:apps", "7"]).await.text();
        assert!(stored.contains("\"first\""), "{stored}");
        for output in new {
            let secret = output.lines().find_map(|line| line.strip_prefix("PUSHER_APP_SECRET=")).unwrap();
            assert!(stored.contains(secret), "{secret} is not in {stored}");
        }
    })
    .await;
}

#[tokio::test]
async fn unsupported_app_settings_are_logged_without_secrets() {
    bounded(async {
        let redis = Redis::start().await;
        let text =
            "id = \"7\"\nkey = \"key7\"\nsecret = \"hush\"\nmax_connections = \"hush\"\nfrom_later = 1\n";
        redis.command(&["HSET", "fanfare:{nodes}:apps", "7", text]).await;
        redis.command(&["HSET", "fanfare:{nodes}:app_keys", "key7", "7"]).await;
        let node = Server::builder().redis(&redis).start().await;
        let seven = AppSpec::new("7");
        // Another node may support these settings: the code makes the client
        // reconnect.
        assert_eq!(connect(&node, &seven).await.closed().await, 4100);
        caller(&node, &seven).post_events(event()).await.expect_error(500, "internal_error");
        node.logged("from_later").await;
        assert!(node.log().lines().all(|line| !line.contains("secret = ")), "{}", node.log());
        app(&redis, &["remove", "7"]).expect_ok();
    })
    .await;
}
