//! The WebSocket handshake (protocol.md 2.1), header by header, over a raw socket.

use std::fmt::Write;

use crate::support::{Answer, RawConnection, Server};

/// The headers of a client's upgrade request, in this order.
const HEADERS: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// The head of the response, and the connection.
async fn send(
    server: &Server,
    version: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (Answer, RawConnection) {
    send_with(server, "GET", version, path, headers).await
}

async fn send_with(
    server: &Server,
    method: &str,
    version: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (Answer, RawConnection) {
    let mut request = format!("{method} {path} HTTP/{version}\r\nHost: {}\r\n", server.addr());
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request.push_str("\r\n");
    let mut connection = RawConnection::open(server.addr()).await;
    connection.send(request).await;
    (connection.head().await, connection)
}

async fn upgrade(server: &Server, headers: &[(&str, &str)]) -> (Answer, RawConnection) {
    send(server, "1.1", "/app/key1?protocol=7", headers).await
}

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&HEADERS[..], more].concat()
}

#[tokio::test]
async fn first_supported_subprotocol_is_chosen() {
    let server = Server::builder().start().await;
    let hundred = (0..100).map(|number| format!("x-{number}")).collect::<Vec<_>>().join(",");
    let hundred = [&hundred, ",pusher-channels-protocol-5"].concat();
    for (offered, chosen) in [
        (&[][..], None),
        (&["pusher-channels-protocol-7"], Some("pusher-channels-protocol-7")),
        (&["pusher-channels-protocol-4"], Some("pusher-channels-protocol-4")),
        (
            &[
                "graphql-ws, pusher-channels-protocol-99,pusher-channels-protocol-6 , pusher-channels-protocol-7",
            ],
            Some("pusher-channels-protocol-6"),
        ),
        (&["graphql-ws", "pusher-channels-protocol-7"], Some("pusher-channels-protocol-7")),
        (&[", ,,pusher-channels-protocol-7,,"], Some("pusher-channels-protocol-7")),
        (&[hundred.as_str()], Some("pusher-channels-protocol-5")),
        (&["pusher-channels-protocol-99"], None),
        (&["pusher-channels-protocol-2"], None),
        (&["pusher-channels-protocol-"], None),
        (&["pusher-channels-protocol-07"], None),
        (&["graphql-ws"], None),
        (&[","], None),
        (&[""], None),
    ] {
        let lines: Vec<_> = offered.iter().map(|value| ("Sec-WebSocket-Protocol", *value)).collect();
        let (head, mut connection) = upgrade(&server, &with(&lines)).await;
        assert_eq!(head.status, 101, "{offered:?}: {head:?}");
        assert_eq!(head.header("sec-websocket-protocol"), chosen, "{offered:?}");
        connection.read_until("pusher:connection_established").await;
    }
}

/// Where the URL contains no version, the subprotocol determines it.
#[tokio::test]
async fn unsupported_subprotocol_without_a_version_in_the_url_is_closed_with_4007() {
    let server = Server::builder().start().await;
    for offered in ["pusher-channels-protocol-99", "pusher-channels-protocol-x, other"] {
        let headers = with(&[("Sec-WebSocket-Protocol", offered)]);
        let (head, mut connection) = send(&server, "1.1", "/app/key1", &headers).await;
        assert_eq!((head.status, head.header("sec-websocket-protocol")), (101, None));
        connection.read_until("This protocol version is not supported; use 7").await;
    }
    let headers = with(&[("Sec-WebSocket-Protocol", "pusher-channels-protocol-5")]);
    send(&server, "1.1", "/app/key1", &headers).await.1.read_until("connection_established").await;
}

#[tokio::test]
async fn upgrade_headers_are_parsed_as_lists() {
    let server = Server::builder().start().await;
    let [_, upgrade_to, version, key] = HEADERS;
    for connection in [
        &["Upgrade"][..],
        &["keep-alive", "Upgrade"],
        &["Upgrade", "keep-alive"],
        &["keep-alive, UPGRADE"],
        &["keep-alive,upgrade,x"],
        &[", upgrade ,"],
    ] {
        let mut headers: Vec<_> = connection.iter().map(|value| ("connection", *value)).collect();
        headers.extend([upgrade_to, version, key]);
        let (head, _) = upgrade(&server, &headers).await;
        assert_eq!(head.status, 101, "{connection:?}: {head:?}");
    }
    for upgrade_to in [&["WebSocket"][..], &["h2c", "websocket"], &["h2c, websocket"]] {
        let mut headers: Vec<_> = upgrade_to.iter().map(|value| ("UPGRADE", *value)).collect();
        headers.extend([("Connection", "Upgrade"), version, key]);
        let (head, _) = upgrade(&server, &headers).await;
        assert_eq!(head.status, 101, "{upgrade_to:?}: {head:?}");
    }
}

#[tokio::test]
async fn refused_upgrade_lists_supported_protocol_and_version() {
    let server = Server::builder().start().await;
    let [connection, upgrade_to, version, key] = HEADERS;
    for headers in [
        &[][..],
        &[connection, upgrade_to, version],
        &[connection, upgrade_to, key],
        &[connection, upgrade_to, key, ("Sec-WebSocket-Version", "8")],
        &[connection, ("Upgrade", "h2c"), version, key],
        &[("Connection", "keep-alive"), upgrade_to, version, key],
        &[version, key],
    ] {
        let (head, _) = upgrade(&server, headers).await;
        assert_eq!(head.status, 426, "{headers:?}: {head:?}");
        assert_eq!(head.header("upgrade"), Some("websocket"), "{head:?}");
        assert_eq!(head.header("connection").map(str::to_lowercase).as_deref(), Some("upgrade"), "{head:?}");
        assert_eq!(head.header("sec-websocket-version"), Some("13"), "{head:?}");
    }
}

#[tokio::test]
async fn upgrade_broken_by_proxy_is_refused_with_cause() {
    let server = Server::builder().start().await;
    let [_, _, version, key] = HEADERS;
    let path = "/app/key1?protocol=7";
    for _ in 0..3 {
        let (head, mut connection) = send(&server, "1.0", path, &HEADERS).await;
        assert_eq!((head.status, head.header("sec-websocket-version")), (426, Some("13")), "{head:?}");
        connection.read_until("proxy_http_version 1.1").await;
        let (head, mut connection) = upgrade(&server, &[version, key]).await;
        assert_eq!(head.status, 426);
        connection.read_until("proxy_set_header").await;
    }
    let warned = |cause: &str| {
        let log = server.log();
        log.lines().filter(|line| line.contains("\"level\":\"WARN\"") && line.contains(cause)).count()
    };
    server.logged("proxy_http_version 1.1").await;
    server.logged("proxy_set_header Upgrade").await;
    assert_eq!(
        (warned("HTTP/1.0"), warned("proxy_set_header")),
        (1, 1),
        "once per minute:\n{}",
        server.log()
    );
}

#[tokio::test]
async fn upgrade_on_an_unknown_path_is_closed_with_4005_and_the_path() {
    let server = Server::builder().start().await;
    for path in ["/", "/app", "/ws", "/app/key1/more", "/apps/1/events", "/elsewhere/app/key1?protocol=7"] {
        for _ in 0..2 {
            let (head, mut connection) = send(&server, "1.1", path, &HEADERS).await;
            assert_eq!(head.status, 101, "{path}: {head:?}");
            let bare = path.split('?').next().unwrap();
            let reason = format!("There is no WebSocket at this path: {bare}");
            connection
                .read_until(&format!(
                    r#"{{"data":{{"code":4005,"message":"{reason}"}},"event":"pusher:error"}}"#
                ))
                .await;
            let close = [&4005_u16.to_be_bytes()[..], reason.as_bytes()].concat();
            connection.read_until(&close).await;
        }
    }
    let long = format!("/{}", "é/".repeat(500).replace('é', "%C3%A9"));
    let (head, _) = send(&server, "1.1", &long, &HEADERS).await;
    assert_eq!(head.status, 101);
    let lines = |path: &str| {
        let field = format!("\"path\":\"{path}\"");
        server.log().lines().filter(|line| line.contains("unknown path") && line.contains(&field)).count()
    };
    server.logged("\"path\":\"/elsewhere/app/key1\"").await;
    for path in ["/", "/app", "/ws", "/app/key1/more"] {
        assert_eq!(lines(path), 1, "{path} is logged once per minute:\n{}", server.log());
    }
}

#[tokio::test]
async fn upgrade_with_another_method_is_refused() {
    let server = Server::builder().start().await;
    for (method, status) in [("HEAD", 426), ("POST", 405), ("TRACE", 405), ("BREW", 405)] {
        let (head, _) = send_with(&server, method, "1.1", "/app/key1?protocol=7", &HEADERS).await;
        assert_eq!(head.status, status, "{method}: {head:?}");
    }
    let (head, _) = send_with(&server, "POST", "1.1", "/nothing", &HEADERS).await;
    assert_eq!(head.status, 404, "{head:?}");
}
