//! Three nodes behind a real HAProxy, configured as committed: whoever comes
//! through it sees one server, also when a node dies.

use serde_json::{Value, json};

use crate::support::haproxy::Site;
use crate::support::json_lines::{Client, Launch};
use crate::support::{Browser, PATIENCE, bounded, eventually, http};

#[tokio::test]
async fn a_cluster_behind_haproxy_is_one_server() {
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

/// An event that asks who got it.
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

/// `pusher-js` loses its node, comes back through HAProxy to another, and the
/// counts are right again: nobody had to be told.
#[tokio::test]
async fn clients_of_a_cluster_survive_a_killed_node() {
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
        let survivor = site.caller();
        assert_eq!(site.sockets().await, [2, 2, 2]);

        site.nodes[1].kill9();
        // The connection dies at once; who was on it comes back.
        let mut moved = 0;
        for client in &mut clients {
            moved += usize::from(client.comes_back().await);
        }
        assert_eq!(moved, 2, "the sockets of the killed node, and no others");
        let count = async || match survivor.subscription_count("news").await {
            count if count == 6 => Ok(()),
            count => Err(count.to_string()),
        };
        // The patience of a lease is nearly that of a test.
        eventually("six subscribers again", 3 * PATIENCE, count).await;

        let batch = (0..10).map(|number| counted(&format!("after-{number}")));
        let answer = survivor.post_batch(batch.collect()).await.expect_ok();
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
        program.tell(&json!({ "cmd": "subscribe", "channel": "news" }));
        let mut js = Js { program, socket_id };
        js.expect_event("pusher:subscription_succeeded").await;
        js
    }

    /// The next event of `news`, whatever else is reported.
    async fn expect_event(&mut self, name: &str) -> Value {
        let of_news = |report: &Value| report["type"] == "event" && report["channel"] == "news";
        let report = self.program.find(name, of_news).await;
        assert_eq!(report["event"], name, "{report}");
        report
    }

    /// Whether it lost its connection. If so: it has noticed, has connected
    /// anew and subscribed again.
    async fn comes_back(&mut self) -> bool {
        if !self.is_cut().await {
            return false;
        }
        let before = std::mem::take(&mut self.socket_id);
        self.socket_id = connected(&mut self.program).await;
        assert_ne!(self.socket_id, before, "another connection");
        self.expect_event("pusher:subscription_succeeded").await;
        true
    }

    /// Finds out without a wait for nothing: a subscription is answered to
    /// whoever has a connection, and the others are about to notice.
    async fn is_cut(&mut self) -> bool {
        self.program.tell(&json!({ "cmd": "subscribe", "channel": "probe" }));
        let is_answer = |report: &Value| {
            let joined = report["channel"] == "probe" && report["event"] == "pusher:subscription_succeeded";
            let lost = report["type"] == "state" && report["previous"] == "connected";
            joined || lost
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

/// What HAProxy answers by itself looks like what a node answers.
#[tokio::test]
async fn without_a_node_the_cluster_answers_json() {
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

/// Signatures cover the path and the query: HAProxy must not touch them.
#[tokio::test]
async fn haproxy_of_a_cluster_passes_paths_as_they_are() {
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
            // Not 401: what the channel has to say of `user_count` is another matter.
            assert!([200, 400].contains(&answer.status), "{path}: {}", answer.text());
        }
    })
    .await;
}
