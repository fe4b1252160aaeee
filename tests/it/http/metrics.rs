//! Metrics of the process, of the build and of single apps.

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare::limits;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::server::{AppSpec, Builder};
use crate::support::{RawConnection, Redis, STEP_TIMEOUT, Server, bounded, eventually};

#[tokio::test]
async fn metrics_of_the_process_and_the_build_are_exported() {
    bounded(async {
        let server = Server::builder().files("ulimit -n 500").start().await;
        let before = server.metrics().await;
        let value = |name: &str| before.0.get(name).copied().unwrap_or_else(|| panic!("no {name}"));
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_resident_memory_bytes") > 1024.0 * 1024.0);
        assert_eq!(value("process_max_fds"), 500.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..60.0).contains(&(now - value("process_start_time_seconds"))));
        let open = value("process_open_fds");
        assert!(open > 5.0, "{open}");
        let mut connections = join_all((0..20).map(|_| RawConnection::open(server.addr()))).await;
        for connection in &mut connections {
            connection.send("GET /live HTTP/1.1\r\nhost: test\r\n\r\n").await;
            connection.answer().await;
        }
        let more = server.metrics().await.sum("process_open_fds") - open;
        assert!((15.0..25.0).contains(&more), "20 connections opened {more} files");
        let build = before.0.keys().find(|series| series.starts_with("fanfare_build_info{")).unwrap();
        assert!(build.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{build}");
    })
    .await;
}

async fn of_app_becomes(server: &Server, name: &str, app: &str, expected: f64) {
    eventually(&format!("{name} of {app}"), STEP_TIMEOUT, async || {
        match server.metrics().await.of_app(name, app) {
            value if value == expected => Ok(()),
            value => Err(format!("{value} in place of {expected}")),
        }
    })
    .await;
}

async fn counts_by_app(builder: Builder) {
    let server = builder.start().await;
    let mut sockets = Vec::new();
    for key in ["key1", "key1", "key2"] {
        let mut socket = server.browser(key).await;
        socket.subscribe("news").await;
        sockets.push(socket);
    }
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    for _ in 0..3 {
        server.caller("1").events(&event).send().await.expect_ok();
    }
    server.caller("2").events(&event).send().await.expect_ok();
    server.caller("2").events(&event).secret("wrong").send().await.expect_error(401, "auth_failed");
    for (name, first, second) in [
        ("fanfare_app_connections", 2.0, 1.0),
        ("fanfare_app_connections_opened_total", 2.0, 1.0),
        ("fanfare_app_subscriptions", 2.0, 1.0),
        ("fanfare_app_events_published_total", 3.0, 1.0),
        ("fanfare_app_deliveries_total", 6.0, 1.0),
        ("fanfare_app_requests_refused_total", 0.0, 1.0),
    ] {
        of_app_becomes(&server, name, "1", first).await;
        of_app_becomes(&server, name, "2", second).await;
    }
    sockets[0].send(json!({ "event": "client-e", "channel": "news", "data": {} })).await;
    of_app_becomes(&server, "fanfare_app_messages_refused_total", "1", 1.0).await;
    drop(sockets);
    for name in ["fanfare_app_connections", "fanfare_app_subscriptions"] {
        of_app_becomes(&server, name, "1", 0.0).await;
    }
}

#[tokio::test]
async fn metrics_by_app_count_what_the_app_does() {
    bounded(counts_by_app(Server::builder())).await;
}

#[tokio::test]
async fn cluster_metrics_by_app_count_what_the_app_does() {
    bounded(async {
        let redis = Redis::start().await;
        counts_by_app(Server::builder().redis(&redis)).await;
    })
    .await;
}

#[tokio::test]
async fn metrics_by_app_have_a_bounded_number_of_series() {
    bounded(async {
        const APPS: usize = limits::APPS_LABELLED_MAX + 5;
        let apps = (1..=APPS).map(|app| AppSpec::new(&app.to_string()));
        let server = apps.fold(Server::builder().without_apps(), Builder::app).start().await;
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        for app in 1..=APPS {
            server.caller(&app.to_string()).events(&event).send().await.expect_ok();
        }
        let metrics = server.metrics().await;
        let name = "fanfare_app_events_published_total";
        let series = metrics.0.keys().filter(|series| series.starts_with(&format!("{name}{{"))).count();
        assert_eq!(series, limits::APPS_LABELLED_MAX + 1);
        assert_eq!(metrics.of_app(name, "other"), 5.0);
        assert_eq!(metrics.sum(name), metrics.sum("fanfare_events_published_total"));
    })
    .await;
}
