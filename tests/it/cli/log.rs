//! The log of a server: lines that cannot be written, and changes of state.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::command::{PROGRAM, bare};
use crate::support::process::Process;
use crate::support::{Backend, Browser, Cluster, Redis, STEP_TIMEOUT, Signal, bounded, eventually, http};

/// A server whose standard error leads nowhere.
struct Unheard {
    process: Process,
    address: SocketAddr,
}

impl Unheard {
    async fn start(redirection: &str, redis: &Redis) -> Unheard {
        let script =
            format!("exec {PROGRAM} --dev --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 {redirection}");
        let mut command = bare("sh");
        command.args(["-c", &script]).env("FANFARE_REDIS", redis.url());
        command.env("FANFARE_DRAIN_DELAY", "0").env("FANFARE_DRAIN_WINDOW", "0");
        let process = Process::spawn("unheard", &mut command);
        let address = |line: &str| line.strip_prefix("fanfare listens on http://").map(str::to_owned);
        let address = process.find("the banner", address).await.expect("the server starts");
        let address = address.split_whitespace().next().unwrap().trim_end_matches('/').parse().unwrap();
        Unheard { process, address }
    }

    async fn browser(&self) -> Browser {
        let path = "/app/dev-key?protocol=7";
        let mut browser = Browser::connect(self.address, path, None).await.expect("an upgrade");
        browser.expect_greeting().await;
        browser
    }
}

/// Every line of the log is lost, and nothing else.
#[tokio::test]
async fn log_that_cannot_be_written_stops_nothing() {
    bounded(async {
        for redirection in ["2>/dev/full", "2>&-"] {
            let redis = Redis::start().await;
            let mut server = Unheard::start(redirection, &redis).await;
            let mut early = server.browser().await;
            early.subscribe("news").await;
            // The node logs that it has lost its lease.
            redis.command(&["FLUSHALL"]).await;
            let ready = http::get(server.address, "/ready").await;
            assert_eq!(ready.status, 200, "{redirection}: {}", ready.text());
            for round in 0..20 {
                server.browser().await.subscribe(&format!("news-{round}")).await;
            }
            server.process.signal(Signal::Terminate);
            let status = server.process.wait_exit(STEP_TIMEOUT).await;
            assert!(status.success(), "{redirection}: SIGTERM drains: {status}");
        }
    })
    .await;
}

/// Readiness is logged and measured at each change, without a request to `/ready`.
#[tokio::test]
async fn readiness_is_logged_once_per_change() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).nodes(1).quick_detection().start().await;
        let is_ready = async |cluster: &Cluster| cluster.metric("fanfare_ready").await[0];
        cluster.first().logged("\"message\":\"ready\"").await;
        assert_eq!(is_ready(&cluster).await, 1.0);
        cluster.redis_mut().kill();
        let line = cluster.first().logged("\"message\":\"not ready\"").await;
        assert!(line.contains("\"level\":\"WARN\"") && line.contains("Redis is unavailable"), "{line}");
        assert_eq!(is_ready(&cluster).await, 0.0);
        cluster.redis_mut().restart().await;
        eventually("ready again", STEP_TIMEOUT, async || match is_ready(&cluster).await {
            1.0 => Ok(()),
            _ => Err(cluster.first().log()),
        })
        .await;
        // Unready for one reason, and until the first probes of a connection and of the topics perhaps
        // for others.
        let log = cluster.first().log();
        let changes: Vec<&str> = log.lines().filter(|line| line.contains("ready\"")).collect();
        let reasons = changes.iter().filter(|line| line.contains("\"not ready\"")).count();
        assert!((1..=3).contains(&reasons) && changes.len() == reasons + 2, "{changes:#?}");
    })
    .await;
}

/// Lost and regained connections to Redis, with the reason, at each change and not at each attempt.
#[tokio::test]
async fn outage_of_redis_is_logged_with_its_reasons() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).nodes(1).start().await;
        cluster.redis_mut().kill();
        let refused = cluster.first().logged("Connection refused").await;
        assert!(refused.contains("\"message\":\"connection to Redis lost\""), "{refused}");
        assert!(refused.contains("\"level\":\"WARN\""), "{refused}");
        // Many attempts later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.first().log().matches("Connection refused").count(), 1);
        cluster.redis_mut().restart().await;
        let regained = cluster.first().logged("all connections to Redis are open again").await;
        assert!(regained.contains("\"level\":\"INFO\""), "{regained}");
    })
    .await;
}

/// Values of strangers in the text format begin no line of their own and control no terminal.
#[tokio::test]
async fn control_characters_are_escaped_in_text_format() {
    bounded(async {
        let redis = Redis::start().await;
        let name = "\\u001b[2J\\nINFO forged";
        let text = format!("id = \"7\"\nkey = \"key7\"\nsecret = \"s\"\n\"{name}\" = 1\n");
        redis.command(&["HSET", "fanfare:{nodes}:apps", "7", &text]).await;
        let mut command = bare(PROGRAM);
        command.args(["--dev", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        command.env("FANFARE_REDIS", redis.url()).env("FANFARE_LOG_FORMAT", "text");
        let process = Process::spawn("server", &mut command);
        let listening = |line: &str| Some(line.split_once("listening listen=")?.1.split(' ').next()?.parse());
        let address = process.find("the address", listening).await.expect("the server starts").unwrap();
        http::get(address, "/apps/7/channels").await;
        let line = |line: &str| line.contains("forged").then(|| line.to_owned());
        let line = process.find("the refused settings", line).await.expect("the server runs");
        assert!(line.contains("ERROR") && line.contains("\\u{1b}[2J\\nINFO forged"), "{line:?}");
        assert!(!process.output().contains('\u{1b}'), "{}", process.output());
    })
    .await;
}

/// SIGTERM ends a node that waits for Redis at start.
#[tokio::test]
async fn node_that_waits_for_redis_ends_on_sigterm() {
    bounded(async {
        // Accepts connections and answers nothing.
        let redis = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut command = bare(PROGRAM);
        command.args(["--dev", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        let mut process = Process::spawn(
            "waiting",
            command.env("FANFARE_REDIS", format!("redis://{}", redis.local_addr().unwrap())),
        );
        // Its handlers of signals exist when it tries to connect.
        let (attempt, _) = redis.accept().await.unwrap();
        process.signal(Signal::Terminate);
        let status = process.wait_exit(Duration::from_secs(1)).await;
        drop(attempt);
        assert!(status.success(), "{status}: {}", process.output());
    })
    .await;
}

/// A Redis that is nearly full still works: the node is ready, and says so.
#[tokio::test]
async fn redis_near_its_maxmemory_is_reported() {
    bounded(async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).start().await;
        let (node, redis) = (cluster.first(), cluster.redis());
        assert_eq!(node.get("/ready").await.text(), r#"{"status":"ready"}"#);
        // Most of it is one value, so that it is near its limit and does not reach it.
        redis.command(&["SETRANGE", "filler", "20000000", "x"]).await;
        let info = redis.command(&["INFO", "memory"]).await.text();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        let max = used.trim().parse::<u64>().unwrap() * 106 / 100;
        redis.command(&["CONFIG", "SET", "maxmemory", &max.to_string()]).await;
        node.logged("Redis is near its maxmemory").await;
        let ready = node.get("/ready").await;
        assert_eq!(ready.status, 200);
        assert!(ready.text().contains(r#""warning":"Redis uses "#), "{}", ready.text());
        assert_eq!(node.metrics().await.sum("fanfare_redis_memory_max_bytes"), max as f64);
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        node.logged("Redis is no longer near its maxmemory").await;
        redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
        node.logged("Redis may evict channels").await;
        assert!(node.get("/ready").await.text().contains("not noeviction"));
        redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
        node.logged("Redis evicts no channels any more").await;
        assert_eq!(node.get("/ready").await.text(), r#"{"status":"ready"}"#);
    })
    .await;
}
