//! The lifetime of HTTP connections, on a node and through HAProxy: while they are
//! idle, while a request head arrives, and after a response that did not wait for
//! the request body.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fanfare::config::keys::KEYS;
use fanfare::limits;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::haproxy::Haproxy;
use crate::support::nginx::Nginx;
use crate::support::process::Process;
use crate::support::{Answer, RawConnection, STEP_TIMEOUT, Server, bounded};

const GET: &str = "GET /live HTTP/1.1\r\nhost: test\r\n\r\n";
/// Keeps connections to the node open between requests.
const NGINX_KEEP_ALIVE: &str =
    "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
/// The clocks of the two processes start apart by the delay of a packet.
const TOLERANCE: Duration = Duration::from_millis(100);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn start(keep_alive_timeout: u64) -> Server {
    Server::builder().config(&format!("keep_alive_timeout = {keep_alive_timeout}")).start().await
}

/// One request whose response keeps the connection open.
async fn exchange(connection: &mut RawConnection) {
    connection.send(GET).await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.header("connection"), Some("close"), "{:?}", answer.headers);
}

async fn fresh(addr: SocketAddr) -> RawConnection {
    RawConnection::open(addr).await
}

async fn used(addr: SocketAddr) -> RawConnection {
    let mut connection = RawConnection::open(addr).await;
    exchange(&mut connection).await;
    connection
}

/// Waits for the end of the connection, which may not come before the timeout.
async fn expect_end_after(connection: &mut RawConnection, timeout: Duration) {
    let start = Instant::now();
    connection.expect_end(timeout + STEP_TIMEOUT).await;
    let open = start.elapsed();
    assert!(open + TOLERANCE > timeout, "closed after {open:?} in place of {timeout:?}");
}

// --- idle connections ----------------------------------------------------------------

#[tokio::test]
async fn keep_alive_idle_connection_is_closed_in_order_after_the_timeout() {
    bounded(async {
        let server = start(2).await;
        let (mut fresh, mut used) = (fresh(server.addr()).await, used(server.addr()).await);
        let mut refused = RawConnection::open(server.addr()).await;
        refused.send("GET /nothing HTTP/1.1\r\nhost: test\r\n\r\n").await;
        refused.answer().await.expect_refused(404);
        tokio::join!(
            expect_end_after(&mut fresh, seconds(2)),
            expect_end_after(&mut used, seconds(2)),
            expect_end_after(&mut refused, seconds(2)),
        );
    })
    .await;
}

/// Each request restarts the timeout.
#[tokio::test]
async fn keep_alive_request_before_the_timeout_is_answered() {
    bounded(async {
        let server = start(2).await;
        let mut connection = fresh(server.addr()).await;
        for _ in 0..3 {
            sleep(Duration::from_millis(1_500)).await;
            exchange(&mut connection).await;
        }
        expect_end_after(&mut connection, seconds(2)).await;
    })
    .await;
}

/// The default and its purpose: proxies and clients that keep a connection for up
/// to 60 s close it first, so that none sends a request while the node closes.
#[tokio::test]
async fn keep_alive_idle_connection_of_60_s_answers_the_next_request() {
    bounded(async {
        let default = default_seconds("keep_alive_timeout");
        assert_eq!(default, seconds(75));
        let server = Server::builder().start().await;
        let haproxy = Haproxy::start(&[server.addr()]).await;
        let nginx = Nginx::start(server.addr(), NGINX_KEEP_ALIVE).await;
        let mut node = FakeNode::start().await;
        let before_node = Haproxy::start(&[node.addr]).await;
        let after_60_s = async |addr: SocketAddr| {
            let mut connection = used(addr).await;
            sleep(seconds(60) + Duration::from_millis(500)).await;
            exchange(&mut connection).await;
        };
        let closed = async |mut connection: RawConnection| expect_end_after(&mut connection, default).await;
        let ended = async {
            let mut connection = used(before_node.addr()).await;
            let (ended, ()) = tokio::join!(node.ended(default), connection.expect_end(default));
            assert!(ended.idle > seconds(60), "HAProxy closed its connection after {:?}", ended.idle);
        };
        let (fresh, used) = (fresh(server.addr()).await, used(server.addr()).await);
        tokio::join!(
            ended,
            after_60_s(server.addr()),
            after_60_s(haproxy.addr()),
            after_60_s(nginx.addr()),
            closed(fresh),
            closed(used),
        );
    })
    .await;
}

/// Idle for about as long as the timeout of a request head: the timer of one must
/// not end the other.
#[tokio::test]
async fn keep_alive_requests_after_15_s_idle_are_answered() {
    bounded(async {
        let server = Server::builder().start().await;
        let haproxy = Haproxy::start(&[server.addr()]).await;
        let after = async |addr: SocketAddr, millis: u64| {
            let mut connection = used(addr).await;
            sleep_until(Instant::now() + Duration::from_millis(millis)).await;
            let sent = connection.try_send(GET).await;
            let answer = tokio::time::timeout(STEP_TIMEOUT, connection.try_answer()).await;
            match (sent, answer.expect("an answer in time")) {
                (Ok(()), Ok(answer)) if answer.status == 200 => None,
                lost => Some(format!("{addr} after {millis} ms: {lost:?}")),
            }
        };
        let idle = (14_900..=15_100).step_by(5);
        let requests = idle.flat_map(|millis| [(server.addr(), millis), (haproxy.addr(), millis)]);
        let results = join_all(requests.map(|(addr, millis)| after(addr, millis))).await;
        let lost: Vec<String> = results.into_iter().flatten().collect();
        assert!(lost.is_empty(), "{} requests lost:\n{}", lost.len(), lost.join("\n"));
    })
    .await;
}

// --- request heads ---------------------------------------------------------------------

/// The timeout of a head is fixed, and starts at the first byte.
#[tokio::test]
async fn keep_alive_head_that_has_begun_has_15_s_to_arrive() {
    bounded(async {
        let timeout = limits::HTTP_HEAD_TIMEOUT;
        let (long, short) = (start(600).await, start(2).await);
        let cut = async |mut connection: RawConnection| {
            connection.send(&GET[..10]).await;
            let start = Instant::now();
            let _ = tokio::time::timeout(timeout + STEP_TIMEOUT, connection.try_answer())
                .await
                .expect("a head that is too slow is cut");
            let open = start.elapsed();
            assert!(open + TOLERANCE > timeout, "cut after {open:?}");
        };
        // One byte per second does not extend it.
        let dripping = async |mut connection: RawConnection| {
            let start = Instant::now();
            for byte in &GET.as_bytes()[..25] {
                if connection.try_send([*byte]).await.is_err() {
                    break;
                }
                tokio::select! {
                    () = sleep(seconds(1)) => {}
                    _ = connection.try_answer() => break,
                }
            }
            let open = start.elapsed();
            assert!(open + TOLERANCE > timeout, "cut after {open:?}");
            assert!(open < timeout + seconds(5), "cut after {open:?}");
        };
        // The idle timeout of the connection does not end it.
        let slow = async |mut connection: RawConnection| {
            connection.send(&GET[..10]).await;
            sleep(seconds(5)).await;
            connection.send(&GET[10..]).await;
            assert_eq!(connection.answer().await.status, 200);
        };
        tokio::join!(
            cut(fresh(long.addr()).await),
            cut(used(long.addr()).await),
            cut(used(short.addr()).await),
            dripping(fresh(long.addr()).await),
            dripping(used(long.addr()).await),
            slow(fresh(short.addr()).await),
            slow(used(short.addr()).await),
        );
    })
    .await;
}

// --- answers before the body -------------------------------------------------------------

const BODY_BYTES: usize = 1024 * 1024;

#[track_caller]
fn expect_close(answer: &Answer, what: &str) {
    assert_eq!(answer.header("connection"), Some("close"), "{what}: {:?}", answer.headers);
}

#[tokio::test]
async fn early_answer_to_an_unread_body_closes_the_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let (caller, disabled) = (server.caller("1"), server.caller("3"));
        let signed = || caller.request("POST", "/events").body(vec![b'x'; BODY_BYTES]);
        let wrong = || signed().secret("wrong");
        let unsigned =
            |line: &str| format!("{line} HTTP/1.1\r\nhost: test\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
        let chunked =
            wrong().head().replace(&format!("content-length: {BODY_BYTES}"), "transfer-encoding: chunked");
        let expecting = wrong().header("expect", "100-continue").head();
        let of_disabled = disabled.request("POST", "/events").body(vec![b'x'; BODY_BYTES]);
        let cases: [(&str, u16, String, &str); 10] = [
            ("a wrong signature", 401, wrong().head(), "xxxxxxxxxx"),
            ("a wrong signature, no byte of the body", 401, wrong().head(), ""),
            ("a wrong signature, a chunked body", 401, chunked, "a\r\nxxxxxxxxxx\r\n"),
            ("a wrong signature, 100-continue", 401, expecting, ""),
            ("an unknown app", 404, signed().path("/apps/9/events").head(), "xxxxxxxxxx"),
            ("a disabled app", 403, of_disabled.head(), "xxxxxxxxxx"),
            ("an encoding", 415, signed().header("content-encoding", "gzip").head(), "xxxxxxxxxx"),
            ("an unknown path", 404, unsigned("POST /nothing"), "xxxxxxxxxx"),
            ("another method", 405, unsigned("PUT /apps/1/events"), "xxxxxxxxxx"),
            ("no upgrade", 426, unsigned("GET /app/key1"), "xxxxxxxxxx"),
        ];
        join_all(cases.map(async |(what, status, head, part)| {
            let mut connection = RawConnection::open(server.addr()).await;
            connection.send(head + part).await;
            let answer = connection.answer().await;
            assert_eq!(answer.status, status, "{what}: {}", answer.text());
            expect_close(&answer, what);
            if let Err(error) = connection.end(STEP_TIMEOUT).await {
                panic!("{what}: {error}");
            }
        }))
        .await;
    })
    .await;
}

/// A client that sends all of its body receives the response first and no reset.
#[tokio::test]
async fn early_answer_arrives_although_the_client_sends_on() {
    bounded(async {
        let server = Server::builder().start().await;
        let caller = server.caller("1");
        let body = vec![b'x'; BODY_BYTES];
        let head = caller.request("POST", "/events").body(body.clone()).secret("wrong").head();
        let mut connection = RawConnection::open(server.addr()).await;
        connection.send(&head).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, 401, "{}", answer.text());
        expect_close(&answer, "401");
        for piece in body.chunks(64 * 1024) {
            connection.send(piece).await;
        }
        connection.expect_end(STEP_TIMEOUT).await;
    })
    .await;
}

/// Whether the node refuses the announced length or the received bytes.
#[tokio::test]
async fn early_answer_413_to_an_unread_body_closes_the_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let caller = server.caller("1");
        let length = 2 * limits::BODY_DRAIN_BYTES_MAX;
        let body = vec![b'x'; length];
        let request = caller.request("POST", "/events").body(body.clone());
        let mut connection = RawConnection::open(server.addr()).await;
        connection.send(request.head()).await;
        for piece in body.chunks(64 * 1024) {
            if connection.try_send(piece).await.is_err() {
                break;
            }
        }
        let answer = connection.answer().await;
        answer.expect_error(413, "payload_too_large");
        expect_close(&answer, "413");
        let _ = connection.end(STEP_TIMEOUT).await;
    })
    .await;
}

#[tokio::test]
async fn early_answer_408_to_a_body_that_stalls_closes_the_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        let head = server.caller("1").events(&event).head();
        let mut connection = RawConnection::open(server.addr()).await;
        connection.send(head + "{").await;
        let answer = connection.answer_within(limits::HTTP_BODY_TIMEOUT + STEP_TIMEOUT).await;
        answer.expect_error(408, "request_timeout");
        expect_close(&answer, "408");
        connection.expect_end(STEP_TIMEOUT).await;
    })
    .await;
}

#[tokio::test]
async fn refusal_of_a_request_without_a_body_keeps_the_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let caller = server.caller("1");
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        let get = || caller.request("GET", "/channels/news");
        let mut connection = RawConnection::open(server.addr()).await;
        for (status, head) in [
            (401, get().secret("wrong").head()),
            (401, caller.request("POST", "/events").secret("wrong").head()),
            (404, "GET /nothing HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
            (405, "DELETE /apps/1/events HTTP/1.1\r\nhost: test\r\n\r\n".to_owned()),
            (200, get().head()),
            // The node read the body before it refused the request.
            (400, caller.events(&json!({ "name": "e" })).head() + &json!({ "name": "e" }).to_string()),
            (200, caller.events(&event).head() + &event.to_string()),
        ] {
            connection.send(&head).await;
            let answer = connection.answer().await;
            assert_eq!(answer.status, status, "{head}: {}", answer.text());
            assert_ne!(answer.header("connection"), Some("close"), "{head}: {:?}", answer.headers);
        }
    })
    .await;
}

/// A real client with a connection pool, and without an error handler on its
/// connections.
#[tokio::test]
async fn early_answers_do_not_break_node_clients() {
    bounded(async {
        let server = Server::builder().start().await;
        let haproxy = Haproxy::start(&[server.addr()]).await;
        let nginx = Nginx::start(server.addr(), NGINX_KEEP_ALIVE).await;
        for addr in [server.addr(), haproxy.addr(), nginx.addr()] {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/early_answers.js");
            let mut command = Command::new("node");
            command.arg(script).arg(addr.ip().to_string()).arg(addr.port().to_string());
            command.args(["1", "key1", "20", &BODY_BYTES.to_string()]);
            let mut node = Process::spawn("early_answers.js", &mut command);
            let status = node.wait_exit(3 * STEP_TIMEOUT).await;
            assert_eq!(status.code(), Some(0), "{}", node.output());
            let reports: Vec<Value> =
                node.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(reports, vec![json!({ "type": "answer", "status": 401 }); 20]);
        }
    })
    .await;
}

// --- haproxy/base.cfg ----------------------------------------------------------------------

/// The default of a setting in seconds.
fn default_seconds(path: &str) -> Duration {
    let key = KEYS.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("there is no key {path}"));
    Duration::from_secs_f64(key.default.expect("the key has a default").parse().unwrap())
}

/// `timeout NAME 60s` of `haproxy/base.cfg`.
fn haproxy_timeout(name: &str) -> Duration {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("haproxy/base.cfg");
    let text = std::fs::read_to_string(base).unwrap();
    let mut values = text.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["timeout", other, value] if other == name => Some(value),
        _ => None,
    });
    let value = values.next().unwrap_or_else(|| panic!("base.cfg has no timeout {name}"));
    assert_eq!(values.next(), None, "base.cfg has one timeout {name}");
    let count = value.strip_suffix('s').and_then(|count| count.parse().ok());
    seconds(count.unwrap_or_else(|| panic!("timeout {name} {value}: not a number of seconds")))
}

#[test]
fn haproxy_timeouts_fit_those_of_a_node() {
    let activity = default_seconds("activity_timeout");
    let silence = activity + activity / 4 + limits::PONG_TIMEOUT;
    let tunnel = haproxy_timeout("tunnel");
    assert!(tunnel > silence, "timeout tunnel {tunnel:?}: a node closes a silent socket after {silence:?}");
    let (idle, node_idle) = (haproxy_timeout("http-keep-alive"), default_seconds("keep_alive_timeout"));
    assert!(idle < node_idle, "timeout http-keep-alive {idle:?}: a node keeps a connection {node_idle:?}");
    assert!(idle > seconds(60), "timeout http-keep-alive {idle:?}: a load balancer in front keeps it 60 s");
    // The shorter of the two ends an idle connection.
    let client = haproxy_timeout("client");
    assert!(client >= idle, "timeout client {client:?} is below timeout http-keep-alive {idle:?}");
    let head = haproxy_timeout("http-request");
    assert!(head <= limits::HTTP_HEAD_TIMEOUT, "timeout http-request {head:?}");
}

/// A fake node that answers every request, and reports each connection that has
/// ended.
struct FakeNode {
    addr: SocketAddr,
    ended: mpsc::Receiver<Ended>,
}

/// A connection that carried requests, not only health checks.
struct Ended {
    requests: usize,
    idle: Duration,
}

impl FakeNode {
    async fn start() -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (report, ended) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let report = report.clone();
                tokio::spawn(async move {
                    if let Some(ended) = serve(stream).await {
                        let _ = report.send(ended).await;
                    }
                });
            }
        });
        FakeNode { addr, ended }
    }

    async fn ended(&mut self, within: Duration) -> Ended {
        let ended = tokio::time::timeout(within, self.ended.recv()).await;
        ended.expect("HAProxy closes its connection in time").expect("the fake node runs as long as the test")
    }
}

async fn serve(mut stream: TcpStream) -> Option<Ended> {
    let (mut requests, mut answered, mut head) = (0, Instant::now(), Vec::new());
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return (requests > 0).then(|| Ended { requests, idle: answered.elapsed() }),
            Ok(_) if !head.ends_with(b"\r\n\r\n") => {}
            Ok(_) => {
                requests += usize::from(!String::from_utf8_lossy(&head).contains(" /ready "));
                head.clear();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
                answered = Instant::now();
            }
        }
    }
}

/// No request may use a connection that the node is closing.
#[tokio::test]
async fn keep_alive_haproxy_closes_its_connection_to_the_node_with_that_of_the_client() {
    bounded(async {
        let mut node = FakeNode::start().await;
        let haproxy = Haproxy::start(&[node.addr]).await;
        let (mut gone, mut other) = (used(haproxy.addr()).await, used(haproxy.addr()).await);
        exchange(&mut gone).await;
        drop(gone);
        assert_eq!(node.ended(STEP_TIMEOUT).await.requests, 2, "of one client, on one connection");
        exchange(&mut other).await;
        exchange(&mut other).await;
        drop(other);
        assert_eq!(node.ended(STEP_TIMEOUT).await.requests, 3);
    })
    .await;
}
