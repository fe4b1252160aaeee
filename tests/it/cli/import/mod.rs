//! `fanfare import`: imports the apps from other servers' configuration formats,
//! and checks the notes about settings without an equivalent. A server accepts the
//! result.

use crate::support::command::{PROGRAM, bare, run};
use crate::support::{AppSpec, Browser, Caller};

/// The printed configuration and the notes.
fn import(name: &str) -> (String, Vec<String>) {
    let path = format!("{}/tests/it/cli/import/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = run(bare(PROGRAM).args(["import", &path]));
    assert_eq!(output.code, Some(0), "{}", output.err);
    let notes = output.err.lines().map(|line| line.trim_start_matches("fanfare: ").to_owned()).collect();
    (output.out, notes)
}

/// `fanfare --check` accepts an imported configuration.
fn expect_valid(toml: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    run(bare(PROGRAM).arg("--check").arg("--config").arg(file.path())).expect_ok();
}

#[test]
fn soketi_apps_are_imported() {
    let (toml, notes) = import("soketi.json");
    assert_eq!(
        toml,
        r#"# 2 apps of soketi

[[apps]]
id = "1001"
key = "shop-key"
secret = "shop-secret"
enabled = true
max_event_batch_size = 50
max_event_payload_in_kb = 64
max_connections = 0
enable_client_messages = true
max_client_events_per_second = 20
max_backend_events_per_second = 500
max_read_requests_per_second = 0
max_presence_members_per_channel = 250
enable_user_authentication = true
cache_ttl_in_seconds = 3600  # the default of soketi

[[apps.webhooks]]
event_types = ["channel_occupied", "member_added"]
filter = { channel_name_starts_with = "presence-" }
headers = { X-Team = "shop" }
url = "https://shop.example/hooks"

[[apps]]
id = "1002"
key = "blog-key"
secret = "blog-secret"
max_event_payload_in_kb = 100  # the default of soketi
max_connections = 100
max_client_events_per_second = 0  # the default of soketi
cache_ttl_in_seconds = 3600  # the default of soketi
"#
    );
    assert_eq!(
        notes,
        [
            "`debug` is left out: it is not about apps",
            "`port` is left out: it is not about apps",
            "app 1001: `webhooks[1]` is left out: `webhooks[0].lambda_function` is not supported by this version",
            "app 1002: `ssl` has no equal here, and is left out",
        ]
    );
    expect_valid(&toml);
}

#[test]
fn sockudo_nested_settings_are_imported() {
    let (toml, notes) = import("sockudo.toml");
    assert_eq!(
        toml,
        r#"# 1 app of Sockudo

[[apps]]
id = "2001"
key = "game-key"
secret = "game-secret"
enabled = true
max_event_batch_size = 25
max_event_payload_in_kb = 170
max_connections = 1000
enable_client_messages = true
max_client_events_per_second = 0
decay_seconds = 2
enable_watchlist_events = true
cache_ttl_in_seconds = 3600  # the default of Sockudo
allowed_origins = ["https://*.game.example"]
channel_delta_compression = { "book-*" = { algorithm = "Xdelta3", conflation_key = "asset.symbol", enable_tags = false, enabled = true, max_conflation_keys = 500, max_messages_per_key = 20 }, "raw-*" = "disabled", "ticker-*" = "fossil" }

[[apps.webhooks]]
event_types = ["member_added"]
url = "https://game.example/hook"
"#
    );
    assert_eq!(
        notes,
        [
            "`port` is left out: it is not about apps",
            "app 2001: `policy.channels.allowed_origins` is left without \"https://play.example/lobby\": no browser sends such an origin",
            "app 2001: `policy.channels.channel_namespaces` has no equal here, and is left out",
            "app 2001: `policy.limits.max_event_payload_in_kb` is lowered to 170, the most that there is here",
            "app 2001: `policy.webhooks[0]` is left without `member_updated`: there is no such event here",
            "app 2001: `policy.webhooks[1]` is left out: `webhooks[0].filter.channel_pattern` is not supported by this version",
        ]
    );
    expect_valid(&toml);
}

#[test]
fn sockudo_flat_settings_are_imported() {
    let (toml, notes) = import("sockudo.json");
    assert_eq!(
        toml,
        r#"# 1 app of Sockudo

[[apps]]
id = "2002"
key = "flat-key"
secret = "flat-secret"
max_event_payload_in_kb = 100  # the default of Sockudo
max_connections = 0
enable_client_messages = false
max_client_events_per_second = 15
message_rate_limit = { decay_seconds = 10, enabled = true, max_attempts = 30 }
cache_ttl_in_seconds = 3600  # the default of Sockudo
channel_delta_compression = { "*" = "inherit", "market-*" = { algorithm = "Fossil", enable_tags = true, enabled = true } }
"#
    );
    assert_eq!(notes, Vec::<String>::new());
    expect_valid(&toml);
}

#[test]
fn reverb_apps_are_imported() {
    let (toml, notes) = import("reverb.json");
    assert_eq!(
        toml,
        r#"# 1 app of Reverb

[[apps]]
id = "3001"
key = "laravel-key"
secret = "laravel-secret"
max_event_payload_in_kb = 20
enable_client_messages = true
max_client_events_per_second = 0  # the default of Reverb
message_rate_limit = { decay_seconds = 60, enabled = true, max_attempts = 60, terminate_on_limit = true }
allowed_origins = ["app.example", "*.app.example"]
"#
    );
    assert_eq!(
        notes,
        [
            "`default` is left out: it is not about apps",
            "`servers` is left out: it is not about apps",
            "app 3001: `activity_timeout` is one for all apps here: `activity_timeout` at the top of the file",
            "app 3001: `options` is for the app's backend, and is left out",
            "app 3001: `ping_interval` follows from `activity_timeout` here, and is left out",
            "app 3001: `accept_client_events_from` is `members` here: client events are taken from subscribers of their channel",
        ]
    );
    expect_valid(&toml);
}

#[tokio::test]
async fn reverb_environment_variables_are_imported_and_start_a_server() {
    let (toml, notes) = import("reverb.env");
    assert_eq!(
        notes,
        [
            "`REVERB_HOST` is left out: it is not about apps",
            "`REVERB_SCHEME` is left out: it is not about apps",
        ]
    );
    // As in practice: the configuration is written to a file, and a server starts
    // with it.
    let node = crate::support::Server::builder().without_apps().config(&toml).start().await;
    let mut app = AppSpec::new("3002");
    (app.key, app.secret) = ("env-key".into(), "env-secret".into());
    let mut browser = Browser::connect(node.addr(), "/app/env-key", Some(app.clone())).await.unwrap();
    browser.expect_greeting().await;
    browser.subscribe("private-room").await;
    Caller::new(node.addr(), app).publish("private-room", "e", "x").await;
    browser.expect_event("private-room", "e").await;
}

#[test]
fn import_of_invalid_file_fails_with_reason() {
    let refused = |text: &str, words: &[&str]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let output = run(bare(PROGRAM).arg("import").arg(file.path()));
        assert_eq!(output.out, "", "{text}");
        output.expect_failure(words);
    };
    refused("hello", &["none of", "soketi", "Sockudo", "Reverb"]);
    refused("<?php return [];", &["PHP", "json_encode"]);
    refused(r#"{"appManager":{"driver":"mysql"}}"#, &["appManager.array.apps", "database"]);
    refused(r#"{"appManager":{"array":{"apps":[{"id":"7","key":"k"}]}}}"#, &["apps[0].secret", "is not set"]);
    let twice = r#"[{"id":"7","key":"k","secret":"s"},{"id":"7","key":"l","secret":"s"}]"#;
    refused(twice, &["apps[1].id", "apps[0].id"]);
    run(bare(PROGRAM).args(["import", "/nowhere/apps.json"])).expect_failure(&["/nowhere/apps.json"]);
}
