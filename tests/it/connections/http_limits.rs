//! Bounds on HTTP connections: unread responses, connections of one address and in all, and
//! file descriptors.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::limits;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::server::Builder;
use crate::support::{
    Answer, Browser, RawConnection, Redis, STEP_TIMEOUT, Server, bounded, eventually, http,
};

const GET: &str = "GET /live HTTP/1.1\r\nhost: test\r\n\r\n";
const TRUSTS_LOOPBACK: &str = "trusted_proxies = [\"127.0.0.0/8\"]";
const UNSIGNED_DELAYED: &str = "fanfare_unsigned_requests_delayed_total";

async fn open(addr: SocketAddr, count: usize) -> Vec<RawConnection> {
    join_all((0..count).map(|_| RawConnection::open(addr))).await
}

async fn metric(server: &Server, name: &str) -> f64 {
    server.metrics().await.sum(name)
}

async fn metric_becomes(server: &Server, name: &str, expected: f64, within: Duration) {
    eventually(name, within, async || match metric(server, name).await {
        value if value == expected => Ok(()),
        value => Err(format!("{value} in place of {expected}")),
    })
    .await;
}

/// A connection with a small receive buffer, from this address of the loopback network.
async fn open_from(addr: SocketAddr, source: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(addr).await.unwrap()
}

/// Sends requests until the server takes no more of them. Reads nothing.
async fn pipeline(stream: &mut TcpStream) -> usize {
    let requests = GET.repeat(1_000);
    let mut sent = 0;
    while let Ok(Ok(written)) = timeout(Duration::from_secs(1), stream.write(requests.as_bytes())).await {
        sent += written;
    }
    sent
}

async fn get_from(addr: SocketAddr, source: &str, path: &str) -> Result<Answer, String> {
    let mut stream = open_from(addr, source).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut received = Vec::new();
        // A refusal is followed by a reset, because the server has not read the request.
        let _ = stream.read_to_end(&mut received).await;
        let parsed = Answer::parse_head(&received);
        parsed.map(|(answer, _)| answer).ok_or_else(|| "closed without a response".to_owned())
    };
    timeout(Duration::from_secs(3), exchange).await.unwrap_or_else(|_| Err("no response".into()))
}

// --- unread responses ------------------------------------------------------------------

#[tokio::test]
async fn unread_responses_are_bounded_and_end_the_connection_after_30_s() {
    bounded(async {
        // Requests of a trusted proxy do not wait for their rate.
        let server = Server::builder().config(TRUSTS_LOOPBACK).start().await;
        let mut stream = open_from(server.addr(), "127.0.0.1").await;
        let stalled = Instant::now();
        pipeline(&mut stream).await;
        assert_eq!(metric(&server, "fanfare_http_connections").await, 1.0);
        let timed_out = "fanfare_http_writes_timed_out_total";
        metric_becomes(&server, timed_out, 1.0, limits::HTTP_WRITE_TIMEOUT + STEP_TIMEOUT).await;
        assert!(stalled.elapsed() >= limits::HTTP_WRITE_TIMEOUT, "closed after {:?}", stalled.elapsed());
        let mut received = Vec::new();
        let _ = timeout(STEP_TIMEOUT, stream.read_to_end(&mut received)).await.expect("the connection ends");
        println!("{} bytes of responses were not read", received.len());
        assert!(received.len() < 1024 * 1024, "{} bytes of responses", received.len());
    })
    .await;
}

#[tokio::test]
async fn pipelined_responses_that_are_read_late_arrive() {
    bounded(async {
        const REQUESTS: usize = 20_000;
        let server = Server::builder().config(TRUSTS_LOOPBACK).start().await;
        let (mut read, mut write) = open_from(server.addr(), "127.0.0.1").await.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(GET.repeat(REQUESTS).as_bytes()).await.unwrap();
            write
        });
        sleep(Duration::from_secs(1)).await;
        let mut received = Vec::new();
        let mut answers = 0;
        while answers < REQUESTS {
            let read = timeout(STEP_TIMEOUT, read.read_buf(&mut received)).await.expect("more responses");
            assert_ne!(read.unwrap(), 0, "closed after {answers} responses");
            while let Some((head, start)) = Answer::parse_head(&received) {
                let length: usize = head.header("content-length").unwrap().parse().unwrap();
                if received.len() < start + length {
                    break;
                }
                received.drain(..start + length);
                answers += 1;
            }
        }
        sending.await.unwrap();
    })
    .await;
}

// --- requests without a valid signature ----------------------------------------------------

/// Pipelines a request, and reads all responses. Returns their status and the time that they took.
async fn send_repeatedly(addr: SocketAddr, request: &str, times: usize) -> (u16, Duration) {
    let mut connection = RawConnection::open(addr).await;
    let begun = Instant::now();
    connection.send(request.repeat(times)).await;
    let mut status = 0;
    for _ in 0..times {
        status = connection.answer().await.status;
    }
    (status, begun.elapsed())
}

#[tokio::test]
async fn unsigned_requests_above_their_rate_wait() {
    bounded(async {
        const ABOVE: u32 = 300;
        let server = Server::builder().start().await;
        let app = server.caller("1");
        let wrong = app.request("GET", "/channels").signature("0").head();
        let time_min = Duration::from_secs(1) * ABOVE / limits::UNSIGNED_REQUESTS_PER_SEC;
        let burst = limits::UNSIGNED_REQUESTS_BURST;
        // The second time without a burst: the address has used it.
        for (request, status, times) in [(GET, 200, burst + ABOVE), (&wrong, 401, ABOVE)] {
            let (answered, time) = send_repeatedly(server.addr(), request, times as usize).await;
            assert_eq!(answered, status);
            assert!(time >= time_min / 2, "{times} requests took {time:?} of at least {time_min:?}");
        }
        server.logged("too many requests without a valid signature from this address").await;
        assert!(metric(&server, UNSIGNED_DELAYED).await > 0.0);
    })
    .await;
}

#[tokio::test]
async fn signed_requests_do_not_wait_for_the_rate_of_unsigned_ones() {
    bounded(async {
        let server = Server::builder().start().await;
        let request = server.caller("1").request("GET", "/channels").head();
        let times = 2 * limits::UNSIGNED_REQUESTS_BURST as usize;
        assert_eq!(send_repeatedly(server.addr(), &request, times).await.0, 200);
        assert_eq!(metric(&server, UNSIGNED_DELAYED).await, 0.0);
    })
    .await;
}

#[tokio::test]
async fn unsigned_requests_behind_a_proxy_count_for_their_client() {
    bounded(async {
        let server = Server::builder().config(TRUSTS_LOOPBACK).start().await;
        let times = limits::UNSIGNED_REQUESTS_BURST as usize + 100;
        let of_client = GET.replace("host:", "x-forwarded-for: 203.0.113.7\r\nhost:");
        send_repeatedly(server.addr(), &of_client, times).await;
        let delayed = metric(&server, UNSIGNED_DELAYED).await;
        assert!(delayed > 0.0);
        send_repeatedly(server.addr(), GET, times).await;
        let of_other = of_client.replace("113.7", "113.8");
        send_repeatedly(server.addr(), &of_other, times / 2).await;
        assert_eq!(metric(&server, UNSIGNED_DELAYED).await, delayed, "the proxy and another client");
    })
    .await;
}

/// The attack: a stranger pipelines requests on many connections, as fast as they are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_unsigned_requests_delays_neither_others_nor_signed_requests() {
    bounded(async {
        const CONNECTIONS: usize = 100;
        const CHECKS: u32 = 20;
        let server = Server::builder().start().await;
        let addr = server.addr();
        let mut flood = JoinSet::new();
        for _ in 0..CONNECTIONS {
            flood.spawn(async move {
                let (mut read, mut write) = open_from(addr, "127.0.0.1").await.into_split();
                let mut discarded = sink();
                let send = async { while write.write_all(GET.repeat(100).as_bytes()).await.is_ok() {} };
                tokio::join!(send, copy(&mut read, &mut discarded)).1
            });
        }
        eventually("responses that wait", STEP_TIMEOUT, async || {
            let delayed = metric(&server, UNSIGNED_DELAYED).await;
            if delayed >= 2.0 * CONNECTIONS as f64 { Ok(()) } else { Err(format!("{delayed} wait")) }
        })
        .await;
        let caller = server.caller("1");
        let begun = Instant::now();
        for _ in 0..CHECKS {
            assert_eq!(get_from(addr, "127.0.0.3", "/ready").await.expect("a response").status, 200);
            caller.publish("news", "e", "x").await;
        }
        let time = begun.elapsed();
        let delayed = limits::UNSIGNED_DELAY_MAX * CHECKS;
        assert!(time < delayed / 2, "{time:?}, {delayed:?} if each had waited");
        // From the address of the flood too, within the timeout of a health check.
        let health = get_from(addr, "127.0.0.1", "/ready").await.expect("a response");
        assert_eq!(health.status, 200);
    })
    .await;
}

// --- connections of one address, and in all ------------------------------------------------

#[tokio::test]
async fn settled_http_connections_of_an_address_are_bounded() {
    bounded(async {
        let server = Server::builder().config("max_http_connections_per_address = 3").start().await;
        let mut sockets: Vec<Browser> = join_all((0..5).map(|_| server.browser("key1"))).await;
        let mut idle = open(server.addr(), 6).await;
        let mut closed = 0;
        for (result, _) in join_all(idle.iter_mut().map(async |connection| {
            let end =
                timeout(limits::HTTP_SETTLE_TIME + Duration::from_secs(2), connection.try_answer()).await;
            (end.is_ok(), connection)
        }))
        .await
        {
            closed += usize::from(result);
        }
        assert!((3..=4).contains(&closed), "{closed} of 6 closed: the metrics may have one of 3 places");
        for socket in &mut sockets {
            socket.subscribe("news").await;
        }
        server.logged("too many HTTP connections from this address").await;
        assert!(metric(&server, "fanfare_http_connections_refused_total").await >= 3.0);
    })
    .await;
}

#[tokio::test]
async fn trusted_proxy_has_any_number_of_settled_connections() {
    bounded(async {
        let config = "max_http_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]";
        let server = Server::builder().config(config).start().await;
        let mut idle = open(server.addr(), 5).await;
        sleep(limits::HTTP_SETTLE_TIME + Duration::from_secs(1)).await;
        for connection in &mut idle {
            connection.send(GET).await;
            assert_eq!(connection.answer().await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn address_with_too_many_connections_is_refused_and_others_are_served() {
    bounded(async {
        let server = Server::builder().config("max_http_connections = 16").start().await;
        let addr = server.addr();
        // Three quarters, and a quarter of the reserve of 64.
        let held = join_all((0..12 + 16).map(|_| open_from(addr, "127.0.0.2"))).await;
        let refused = get_from(addr, "127.0.0.2", "/live").await.expect("a refusal with a reason");
        assert_eq!((refused.status, refused.header("connection")), (429, Some("close")));
        assert_eq!(get_from(addr, "127.0.0.3", "/live").await.expect("a response").status, 200);
        let mut browser = server.browser("key1").await;
        browser.subscribe("news").await;
        drop(held);
    })
    .await;
}

#[tokio::test]
async fn forwarded_requests_in_progress_are_bounded_per_client() {
    bounded(async {
        let config = "max_http_connections = 16\ntrusted_proxies = [\"127.0.0.0/8\"]";
        let server = Server::builder().config(config).start().await;
        let caller = server.caller("1");
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        let forwarded = |client: &str| caller.events(&event).header("x-forwarded-for", client);
        let mut slow = open(server.addr(), 12).await;
        for connection in &mut slow {
            connection.send(forwarded("203.0.113.7").head()).await;
        }
        eventually("a refusal", STEP_TIMEOUT, async || {
            let answer = forwarded("203.0.113.7").send().await;
            if answer.status == 429 { Ok(answer) } else { Err(answer.text()) }
        })
        .await
        .expect_error(429, "too_many_connections");
        forwarded("203.0.113.8").send().await.expect_ok();
        drop(slow);
        eventually("places", STEP_TIMEOUT, async || {
            let answer = forwarded("203.0.113.7").send().await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    })
    .await;
}

// --- file descriptors ----------------------------------------------------------------------

#[tokio::test]
async fn soft_limit_of_open_files_is_raised_to_the_hard_one() {
    bounded(async {
        let server = Server::builder().files("ulimit -Sn 64; ulimit -Hn 300").start().await;
        let line = server.logged("\"listening\"").await;
        assert!(line.contains("\"files_max\":300"), "{line}");
        let _open = open(server.addr(), 100).await;
        assert_eq!(server.get("/ready").await.status, 200);
    })
    .await;
}

/// Opens sockets until the node refuses one.
async fn fill(server: &Server) -> (Vec<Browser>, Box<Answer>) {
    let mut sockets = Vec::new();
    loop {
        match server.try_connect("/app/key1?protocol=7").await {
            Ok(mut socket) => {
                socket.expect_greeting().await;
                sockets.push(socket);
            }
            Err(refusal) => return (sockets, refusal),
        }
    }
}

async fn without_descriptors(builder: Builder) {
    let server = builder.files("ulimit -n 200").start().await;
    let caller = server.caller("1");
    let (mut sockets, refusal) = fill(&server).await;
    refusal.expect_error(503, "over_capacity");
    assert_eq!(refusal.header("retry-after"), Some("1"));
    assert!(sockets.len() > 100, "{} sockets", sockets.len());
    let answer = server.get("/ready").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    sockets[0].subscribe("news").await;
    for number in 0..20 {
        let event = json!({ "name": "e", "channel": "news", "data": number.to_string() });
        caller.events(&event).send().await.expect_ok();
        assert_eq!(sockets[0].next().await.data_text(), number.to_string());
    }
    let metrics = server.metrics().await;
    assert!(metrics.sum("fanfare_http_connections_reserve_total") > 0.0);
    assert_eq!(metrics.sum("fanfare_accepts_failed_total"), 0.0);
    let shortage = "refused, or served from the reserve";
    assert_eq!(server.log().matches(shortage).count(), 1, "{}", server.log());
    drop(sockets);
    eventually("a place", STEP_TIMEOUT, async || {
        let connected = server.try_connect("/app/key1?protocol=7").await;
        connected.map(drop).map_err(|refusal| refusal.text())
    })
    .await;
    // At most one line in a second, with the next connection.
    eventually("a log line", STEP_TIMEOUT, async || {
        server.get("/ready").await;
        let log = server.log();
        if log.contains("connections are accepted again") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn node_without_descriptors_publishes_and_reports_its_health() {
    bounded(without_descriptors(Server::builder())).await;
}

#[tokio::test]
async fn cluster_node_without_descriptors_publishes_and_reports_its_health() {
    bounded(async {
        let redis = Redis::start().await;
        without_descriptors(Server::builder().redis(&redis)).await;
    })
    .await;
}

/// The attack: a stranger has more connections than there are descriptors, and reads no
/// response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_read_nothing_leave_health_and_metrics_to_others() {
    bounded(async {
        let server = Server::builder().files("ulimit -n 200").start().await;
        let addr = server.addr();
        let calm = Instant::now();
        assert_eq!(get_from(addr, "127.0.0.3", "/ready").await.expect("a response").status, 200);
        let calm = calm.elapsed();
        let attackers: Vec<_> = (0..190)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = open_from(addr, "127.0.0.2").await;
                    pipeline(&mut stream).await;
                    stream
                })
            })
            .collect();
        let _held = join_all(attackers).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            let begun = Instant::now();
            assert_eq!(get_from(addr, "127.0.0.3", "/ready").await.expect("a response").status, 200);
            slowest = slowest.max(begun.elapsed());
            let answer = http::get(server.metrics_addr(), "/metrics").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        println!("/ready took {calm:?} before the attack, at most {slowest:?} during it");
        server.browser("key1").await;
    })
    .await;
}
