//! Who is at the other end: the peer of the connection, or whom a proxy of ours
//! names.

use std::net::{IpAddr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

use crate::node::Node;

/// The other end of a TCP connection: every request of a connection has it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The address of the client that asks, for the log.
pub(super) fn client(node: &Node, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let Peer(peer) = extensions.get()?;
    Some(client_behind(peer.ip().to_canonical(), headers, &node.trusted_proxies))
}

/// Each proxy appends whom it was asked by, so the list is read from its end, for
/// as long as it was written by those whom we trust. Anyone can write the rest.
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

/// An address, in some proxies' writing with a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|it| it.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_no_proxy_of_ours_has_is_the_client() {
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
