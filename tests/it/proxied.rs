//! `trusted_proxies`: who is at the other end, for the log.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Server};

async fn start(proxies: &str) -> Server {
    let config = format!("log = \"info,fanfare=debug\"\ntrusted_proxies = {proxies}");
    Server::builder().config(&config).start().await
}

/// Whom the log names for a request that is refused.
async fn client_of(server: &Server, message: &str, forwarded_for: &str) -> String {
    // So that the line is that of this request.
    let lines = server.log().lines().filter(|line| line.contains(message)).count();
    if message == "request refused" {
        let event = json!({ "name": "e", "channel": "news", "data": "x" });
        let caller = server.caller("1");
        let request = caller.events(&event).secret("wrong").header("x-forwarded-for", forwarded_for);
        request.send().await.expect_error(401, "auth_failed");
    } else {
        refused_socket(server, forwarded_for).await;
    }
    let log = crate::support::eventually(message, PATIENCE, async || {
        let log = server.log();
        let found = log.lines().filter(|line| line.contains(message)).nth(lines).map(str::to_owned);
        found.ok_or(log)
    });
    let line = log.await;
    // Behind the name of who says it.
    let line = &line[line.find('{').expect("the log is JSON")..];
    let line: serde_json::Value = serde_json::from_str(line).expect("the log is JSON");
    line["client"].as_str().unwrap_or("nobody").to_owned()
}

/// A browser with the key of no app; comes back when it was closed.
async fn refused_socket(server: &Server, forwarded_for: &str) {
    let request = format!(
        "GET /app/nobody?protocol=7 HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         x-forwarded-for: {forwarded_for}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let closing = async {
        while !String::from_utf8_lossy(&heard).contains("There is no app with this key") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "the server has hung up");
        }
    };
    tokio::time::timeout(PATIENCE, closing).await.expect("a refusal in time");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let server = start(r#"["127.0.0.0/8", "10.0.0.0/8"]"#).await;
    for message in ["request refused", "socket refused"] {
        assert_eq!(client_of(&server, message, "203.0.113.7").await, "203.0.113.7");
        assert_eq!(client_of(&server, message, "198.51.100.1, 203.0.113.7, 10.1.2.3").await, "203.0.113.7");
        assert_eq!(client_of(&server, message, "2001:db8::7").await, "2001:db8::7");
        assert_eq!(client_of(&server, message, "nonsense").await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_stranger_is_not() {
    let server = start("[]").await;
    for message in ["request refused", "socket refused"] {
        assert_eq!(client_of(&server, message, "203.0.113.7").await, "127.0.0.1");
    }
    let server = start(r#"["10.0.0.0/8"]"#).await;
    assert_eq!(client_of(&server, "request refused", "203.0.113.7, 10.0.0.1").await, "127.0.0.1");
}
