//! `trusted_proxies`: the client's address in the log.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{STEP_TIMEOUT, Server};

async fn start(proxies: &str) -> Server {
    let config = format!("log = \"info,fanfare=debug\"\ntrusted_proxies = {proxies}");
    Server::builder().config(&config).start().await
}

/// The client's address that the log line of a refused request contains.
async fn client_of(server: &Server, message: &str, forwarded_for: &str) -> String {
    // Skips the lines of earlier requests.
    let lines = server.log().lines().filter(|line| line.contains(message)).count();
    if message == "request refused" {
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        let caller = server.caller("1");
        let request = caller.events(&event).secret("wrong").header("x-forwarded-for", forwarded_for);
        request.send().await.expect_error(401, "auth_failed");
    } else {
        refused_socket(server, forwarded_for).await;
    }
    let log = crate::support::eventually(message, STEP_TIMEOUT, async || {
        let log = server.log();
        let found = log.lines().filter(|line| line.contains(message)).nth(lines).map(str::to_owned);
        found.ok_or(log)
    });
    let line = log.await;
    // The process name precedes the JSON.
    let line = &line[line.find('{').expect("the log is JSON")..];
    let line: serde_json::Value = serde_json::from_str(line).expect("the log is JSON");
    line["client"].as_str().unwrap_or("nobody").to_owned()
}

/// Opens a WebSocket with an unknown app key; returns once the server has refused it.
async fn refused_socket(server: &Server, forwarded_for: &str) {
    let request = format!(
        "GET /app/nobody?protocol=7 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         x-forwarded-for: {forwarded_for}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let closing = async {
        while !String::from_utf8_lossy(&received).contains("There is no app with this key") {
            assert_ne!(
                stream.read_buf(&mut received).await.unwrap(),
                0,
                "the connection ended before the refusal"
            );
        }
    };
    tokio::time::timeout(STEP_TIMEOUT, closing).await.expect("a refusal in time");
}

#[tokio::test]
async fn trusted_proxy_forwarded_address_is_logged() {
    let server = start(r#"["127.0.0.0/8", "10.0.0.0/8"]"#).await;
    for message in ["request refused", "socket refused"] {
        assert_eq!(client_of(&server, message, "203.0.113.7").await, "203.0.113.7");
        assert_eq!(client_of(&server, message, "198.51.100.1, 203.0.113.7, 10.1.2.3").await, "203.0.113.7");
        assert_eq!(client_of(&server, message, "2001:db8::7").await, "2001:db8::7");
        assert_eq!(client_of(&server, message, "nonsense").await, "127.0.0.1");
    }
}

#[tokio::test]
async fn trusted_proxies_without_the_peer_log_the_peer_address() {
    let server = start("[]").await;
    for message in ["request refused", "socket refused"] {
        assert_eq!(client_of(&server, message, "203.0.113.7").await, "127.0.0.1");
    }
    let server = start(r#"["10.0.0.0/8"]"#).await;
    assert_eq!(client_of(&server, "request refused", "203.0.113.7, 10.0.0.1").await, "127.0.0.1");
}
