//! Three nodes behind a real HAProxy with the committed configuration: clients use
//! them as one server, also when a node dies.

use serde_json::{Value, json};

use crate::support::haproxy::Site;
use crate::support::json_lines::{Client, Launch};
use crate::support::{Browser, STEP_TIMEOUT, bounded, http};

#[tokio::test]
async fn cluster_behind_haproxy_delivers_like_one_server() {
    bounded(async {
        let site = Site::start("").await;
        let mut browsers = browsers(&site, 6).await;
        assert_eq!(site.sockets().await, [2, 2, 2], "HAProxy spreads sockets over the nodes");
        let caller = site.caller();
        for round in 0..10 {
            let batch = (0..10).map(|number| counted(&format!("e{round}.{number}")));
            let answer = caller.post_batch(batch.collect()).await.expect_ok();
            assert_eq!(answer["batch"], json!(vec![json!({ "subscription_count": 6 }); 10]));
        }
        for browser in &mut browsers {
            for number in 0..100 {
                browser.expect_event("news", &format!("e{}.{}", number / 10, number % 10)).await;
            }
        }
        assert_eq!(caller.connections_opened(), 1, "a backend's connection is kept alive");
    })
    .await;
}

/// An event that requests the subscription count.
fn counted(name: &str) -> Value {
    json!({ "name": name, "channel": "news", "data": "1", "info": "subscription_count" })
}

async fn browsers(site: &Site, count: usize) -> Vec<Browser> {
    let mut browsers = Vec::new();
    for _ in 0..count {
        let mut browser = site.browser().await;
        browser.subscribe("news").await;
        browsers.push(browser);
    }
    browsers
}

/// `pusher-js` loses its node and reconnects through HAProxy to another one, and
/// the counts recover without intervention.
#[tokio::test]
async fn clients_of_a_cluster_reconnect_after_node_is_killed() {
    bounded(async {
        let mut site = Site::start("").await;
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(Js::open(&site).await);
        }
        site.caller().publish("news", "before", "1").await;
        for client in &mut clients {
            client.expect_event("before").await;
        }
        let caller = site.caller();
        assert_eq!(site.sockets().await, [2, 2, 2]);

        site.nodes[1].kill9();
        // The connection ends at once; its client reconnects.
        let mut moved = 0;
        for client in &mut clients {
            moved += usize::from(client.reconnects().await);
        }
        assert_eq!(moved, 2, "the sockets of the killed node, and no others");
        // The expiry of a lease takes nearly as long as the timeout of a test step.
        caller.count_becomes_within("news", 6, 3 * STEP_TIMEOUT).await;

        let batch = (0..10).map(|number| counted(&format!("after-{number}")));
        let answer = caller.post_batch(batch.collect()).await.expect_ok();
        assert_eq!(answer["batch"], json!(vec![json!({ "subscription_count": 6 }); 10]));
        for client in &mut clients {
            for number in 0..10 {
                client.expect_event(&format!("after-{number}")).await;
            }
        }
    })
    .await;
}

/// One `pusher-js`, subscribed to `news`.
struct Js {
    program: Client,
    socket_id: String,
}

impl Js {
    async fn open(site: &Site) -> Js {
        let launch = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg(&site.app().key);
        let mut program = launch.start();
        let socket_id = connected(&mut program).await;
        program.send(&json!({ "cmd": "subscribe", "channel": "news" }));
        let mut js = Js { program, socket_id };
        js.expect_event("pusher:subscription_succeeded").await;
        js
    }

    /// The next event of `news`; skips other reports.
    async fn expect_event(&mut self, name: &str) -> Value {
        let of_news = |report: &Value| report["type"] == "event" && report["channel"] == "news";
        let report = self.program.find(name, of_news).await;
        assert_eq!(report["event"], name, "{report}");
        report
    }

    /// Whether the client has lost its connection. If so, waits until it has
    /// reconnected and resubscribed.
    async fn reconnects(&mut self) -> bool {
        if !self.is_cut().await {
            return false;
        }
        let before = std::mem::take(&mut self.socket_id);
        self.socket_id = connected(&mut self.program).await;
        assert_ne!(self.socket_id, before, "another connection");
        self.expect_event("pusher:subscription_succeeded").await;
        true
    }

    /// Finds out without a timeout: the server answers a subscription on a live
    /// connection, and the other clients are about to report the loss.
    async fn is_cut(&mut self) -> bool {
        self.program.send(&json!({ "cmd": "subscribe", "channel": "probe" }));
        let is_answer = |report: &Value| {
            let confirmed =
                report["channel"] == "probe" && report["event"] == "pusher:subscription_succeeded";
            let lost = report["type"] == "state" && report["previous"] == "connected";
            confirmed || lost
        };
        let report = self.program.find("an answer or the loss of the connection", is_answer).await;
        report["type"] == "state"
    }
}

/// Waits for the state in which `pusher-js` has a socket id.
async fn connected(program: &mut Client) -> String {
    let is_connected = |report: &Value| report["type"] == "state" && report["current"] == "connected";
    let report = program.find("state connected", is_connected).await;
    report["socket_id"].as_str().expect("a connected client has a socket id").to_owned()
}

/// HAProxy's own error response has the form of a node's.
#[tokio::test]
async fn haproxy_cluster_without_nodes_answers_503_in_json() {
    bounded(async {
        let mut site = Site::start("").await;
        for node in &mut site.nodes {
            node.kill9();
        }
        let answer = http::get(site.haproxy.addr(), "/ready").await;
        answer.expect_error(503, "service_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    })
    .await;
}

/// Signatures cover the path and the query: HAProxy must not change them.
#[tokio::test]
async fn haproxy_of_a_cluster_passes_paths_unchanged() {
    bounded(async {
        let site = Site::start("").await;
        let caller = site.caller();
        for path in ["/channels/a,b;c=d@e", "/channels/a%2Cb", "/channels/%6Eews"] {
            let request = caller.request("GET", path);
            let request = request.query_as(
                "info",
                "user_count,subscription_count",
                "info=user_count,subscription_count",
            );
            let answer = request.send().await;
            // Not 401: whether the channel has a `user_count` does not matter here.
            assert!([200, 400].contains(&answer.status), "{path}: {}", answer.text());
        }
    })
    .await;
}
