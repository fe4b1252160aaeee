//! The address of the client: the peer of the TCP connection, or the address in
//! `X-Forwarded-For` if the peer is a trusted proxy.

use std::net::{IpAddr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

use crate::node::Node;

/// The address of the peer of a TCP connection, an extension of each of its requests.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The address of the client that sent the request, for the log.
pub(super) fn client(node: &Node, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let Peer(peer) = extensions.get()?;
    Some(client_behind(peer.ip().to_canonical(), headers, &node.trusted_proxies))
}

/// Each proxy appends the address of its peer, so the list is read from its end, as long as the
/// addresses are those of trusted proxies. Any client can forge the entries before.
fn client_behind(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',')).map(parse);
    while trusted.iter().any(|net| net.contains(&client)) {
        let Some(Some(hop)) = hops.next() else { break };
        client = hop;
    }
    client
}

/// Parses an address. Some proxies append the port.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|it| it.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: [u8; 2] = [10, 127];

    fn trusted() -> Vec<IpNet> {
        TRUSTED.map(|net| format!("{net}.0.0.0/8").parse().expect("a network")).into()
    }

    fn headers(lines: &[Vec<u8>]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
            headers.append("x-forwarded-for", line);
        }
        headers
    }

    proptest! {
        /// A client may send any bytes. A peer that is no proxy is always the client.
        #[test]
        fn any_forwarded_addresses_are_read(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4),
            texts in prop::collection::vec("[0-9a-f.:, \\[\\]%]{0,60}", 0..4),
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().chain(texts.into_iter().map(String::into_bytes)).collect();
            let headers = headers(&lines);
            let _ = client_behind([10, 0, 0, 1].into(), &headers, &trusted());
            let client = IpAddr::from([192, 0, 2, 1]);
            prop_assert_eq!(client_behind(client, &headers, &trusted()), client);
        }

        /// The proxies append the client's address and their own; the client wrote the rest.
        #[test]
        fn client_cannot_forge_its_address(
            forged in "[ -~]{0,60}",
            client in any::<[u8; 4]>().prop_filter("not a proxy", |it| !TRUSTED.contains(&it[0])),
            proxies in prop::collection::vec(any::<[u8; 3]>(), 0..3),
        ) {
            let client = IpAddr::from(client);
            let proxies = proxies.iter().map(|[a, b, c]| format!(", 10.{a}.{b}.{c}"));
            let line = format!("{forged}, {client}{}", proxies.collect::<String>());
            let found = client_behind([10, 0, 0, 1].into(), &headers(&[line.into_bytes()]), &trusted());
            prop_assert_eq!(found, client);
        }
    }

    #[test]
    fn client_address_is_the_last_one_that_is_not_a_trusted_proxy() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
        for (peer, lines, client) in [
            ("192.0.2.1", &["203.0.113.7"][..], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7 , 10.2.3.4"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.7,10.2.3.4"], "203.0.113.7"),
            ("10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7"),
            ("10.0.0.1", &["[2001:db9::1]:4711"], "2001:db9::1"),
            ("2001:db8::1", &["::ffff:203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().expect("a header"));
            }
            let found = client_behind(peer.parse().expect("an address"), &headers, &trusted);
            assert_eq!(found.to_string(), client, "{peer} with {lines:?}");
        }
    }
}
