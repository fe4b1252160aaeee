//! The WebSocket handshake as clients implement it: npm's `ws`, which fails when
//! the server selects none of its subprotocols, and Chromium, which hides an HTTP
//! status from its pages but exposes a close code.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::json_lines::{BROWSER_TIMEOUT, Client, Launch};
use crate::support::web_app::ProcessGroup;
use crate::support::{Server, bounded};

/// `tests/clients/websocket.js`.
struct Sockets {
    program: Client,
    opened: u64,
    chromium: Option<(ProcessGroup, TempDir)>,
}

impl Sockets {
    /// Sockets of `ws`, in Node.
    fn in_node() -> Sockets {
        let program = Launch::node("websocket.js").timeout(BROWSER_TIMEOUT).start();
        Sockets { program, opened: 0, chromium: None }
    }

    /// Sockets of a page in Chromium.
    async fn in_chromium() -> Sockets {
        let mut sockets = Sockets::in_node();
        let profile = TempDir::new().unwrap();
        sockets.program.send(&json!({ "cmd": "browse", "profile": profile.path() }));
        let chromium = sockets.program.next().await;
        let group = ProcessGroup(chromium["pid"].as_u64().expect("the pid of Chromium"));
        sockets.chromium = Some((group, profile));
        assert_eq!(sockets.program.next().await, json!({ "type": "done" }));
        sockets
    }

    /// Opens a socket and returns its first report.
    async fn open(&mut self, server: &Server, path: &str, protocols: Option<&[&str]>) -> Value {
        self.opened += 1;
        let url = format!("ws://{}{path}", server.addr());
        self.program.send(&json!({ "cmd": "open", "id": self.opened, "url": url, "protocols": protocols }));
        self.report().await
    }

    /// The next report of the socket opened last.
    async fn report(&mut self) -> Value {
        let report = self.program.next().await;
        assert_eq!(report["id"], self.opened, "a report of an earlier socket: {report}");
        report
    }

    /// Closes the socket opened last.
    async fn close(&mut self) {
        self.program.send(&json!({ "cmd": "close", "id": self.opened }));
        assert_eq!(self.report().await["type"], "closed");
    }
}

impl Drop for Sockets {
    /// Node ends its browser by itself, unless it is killed first.
    fn drop(&mut self) {
        if let Some((chromium, _)) = self.chromium.take() {
            chromium.kill();
        }
    }
}

const APP: &str = "/app/key1?client=js&version=8.6.0";

/// The subprotocols offered, and the one that the server selects.
const OFFERS: [(&[&str], &str); 6] = [
    (&["pusher-channels-protocol-7"], "pusher-channels-protocol-7"),
    (&["pusher-channels-protocol-4"], "pusher-channels-protocol-4"),
    (&["pusher-channels-protocol-5", "pusher-channels-protocol-7"], "pusher-channels-protocol-5"),
    (&["pusher-channels-protocol-7", "pusher-channels-protocol-5"], "pusher-channels-protocol-7"),
    (&["pusher-channels-protocol-8", "pusher-channels-protocol-6"], "pusher-channels-protocol-6"),
    (&["mqtt", "pusher-channels-protocol-3", "pusher-channels-protocol-7"], "pusher-channels-protocol-7"),
];

/// Offers without a subprotocol that the server supports.
const UNKNOWN_OFFERS: [&[&str]; 4] = [
    &["mqtt"],
    &["pusher-channels-protocol-3", "pusher-channels-protocol-8"],
    &["pusher-channels-protocol-", "pusher-channels-protocol-77", "pusher-channels-protocol-7.0"],
    &["pusher"],
];

async fn check_subprotocols(mut sockets: Sockets) {
    let server = Server::builder().start().await;
    for (offer, answer) in OFFERS {
        let report = sockets.open(&server, APP, Some(offer)).await;
        let expected = json!({ "id": sockets.opened, "type": "opened", "protocol": answer });
        assert_eq!(report, expected, "{offer:?}");
        expect_greeting(&mut sockets).await;
    }
    let report = sockets.open(&server, APP, None).await;
    assert_eq!(report, json!({ "id": sockets.opened, "type": "opened", "protocol": "" }));
    expect_greeting(&mut sockets).await;
    // RFC 6455 4.2.2: the server sends no subprotocol where none is acceptable, and
    // the client gives up.
    for offer in UNKNOWN_OFFERS {
        let report = sockets.open(&server, APP, Some(offer)).await;
        assert_eq!(report["type"], "error", "{offer:?}: {report}");
        if sockets.chromium.is_none() {
            assert_eq!(report["error"], "Server sent no subprotocol", "{offer:?}");
        }
        assert_eq!(sockets.report().await["code"], 1006, "{offer:?}");
    }
}

async fn expect_greeting(sockets: &mut Sockets) {
    let report = sockets.report().await;
    let frame: Value = serde_json::from_str(report["frame"].as_str().unwrap()).unwrap();
    assert_eq!(frame["event"], "pusher:connection_established", "{report}");
    sockets.close().await;
}

#[tokio::test]
async fn subprotocol_offered_by_ws_is_answered_with_first_supported() {
    bounded(check_subprotocols(Sockets::in_node())).await;
}

#[tokio::test]
async fn subprotocol_offered_by_chromium_is_answered_with_first_supported() {
    bounded(async { check_subprotocols(Sockets::in_chromium().await).await }).await;
}

/// A close reason of a WebSocket has this many bytes at most (RFC 6455 5.5).
const REASON_BYTES_MAX: usize = 123;

async fn check_unknown_paths(mut sockets: Sockets) {
    let server = Server::builder().start().await;
    let long = format!("/{}", "long-path-".repeat(30));
    let encoded = format!("/{}", "%C4%8D".repeat(60));
    for path in ["/", "/nothing", "/app", "/app/key1/more", "/apps/1/events", &long, &encoded] {
        for protocols in [None, Some(&["pusher-channels-protocol-7"][..])] {
            let report = sockets.open(&server, &format!("{path}?protocol=7"), protocols).await;
            let protocol = protocols.map_or("", |protocols| protocols[0]);
            let opened = json!({ "id": sockets.opened, "type": "opened", "protocol": protocol });
            assert_eq!(report, opened, "{path}");
            let report = expect_close(&mut sockets).await;
            assert_eq!(
                (&report["type"], &report["code"]),
                (&"closed".into(), &4005.into()),
                "{path}: {report}"
            );
            let reason = report["reason"].as_str().unwrap();
            assert!(reason.len() <= REASON_BYTES_MAX, "{path}: {} bytes", reason.len());
            let shown = &path[..path.len().min(60)];
            assert!(reason.contains(shown), "{path}: {reason}");
        }
    }
    // The server keeps running.
    assert_eq!(sockets.open(&server, APP, None).await["type"], "opened");
    expect_greeting(&mut sockets).await;
}

/// A `pusher:error` with the same text may come before the close.
async fn expect_close(sockets: &mut Sockets) -> Value {
    let report = sockets.report().await;
    if report["type"] != "frame" {
        return report;
    }
    let frame: Value = serde_json::from_str(report["frame"].as_str().unwrap()).unwrap();
    assert_eq!((&frame["event"], &frame["data"]["code"]), (&"pusher:error".into(), &4005.into()), "{frame}");
    sockets.report().await
}

#[tokio::test]
async fn unknown_path_closes_ws_with_4005_and_path() {
    bounded(check_unknown_paths(Sockets::in_node())).await;
}

#[tokio::test]
async fn unknown_path_closes_chromium_with_4005_and_path() {
    bounded(async { check_unknown_paths(Sockets::in_chromium().await).await }).await;
}
