//! Bounds on HTTP connections: in all, and for each client address. A WebSocket counts as one
//! until an app has admitted it.
//!
//! A burst is not bounded closely: after a restart, thousands of clients behind one address
//! reconnect at once, and become WebSockets within a second. A connection that remains an HTTP
//! connection for [`limits::HTTP_SETTLE_TIME`] counts against the closer limit of its address.
//!
//! When the limit in all is reached, or the process has no more file descriptors for clients,
//! some more connections are served from a reserve: one request each. Health checks and
//! publishes continue to work.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::connections::Connections;
use super::unsigned_requests::UnsignedRequests;
use crate::limits;
use crate::log_limit::LogLimit;
use crate::metrics::metrics;

/// The settings of a listener.
#[derive(Debug, Clone, Copy)]
pub struct HttpBounds {
    /// HTTP connections in all.
    pub connections_max: usize,
    /// Settled HTTP connections of one address.
    pub per_address_max: usize,
    /// HTTP connections and WebSockets together: the file descriptors for clients.
    pub files_max: usize,
    /// Connections that are served from the reserve.
    pub reserve_max: usize,
}

#[derive(Debug)]
pub struct HttpLimiter {
    bounds: HttpBounds,
    /// Not bounded per address: their connections belong to many clients.
    trusted_proxies: Vec<IpNet>,
    connections: Arc<Connections>,
    counts: Mutex<Counts>,
    unsigned_requests: Mutex<UnsignedRequests>,
    /// The subject is the address.
    log_limit: LogLimit,
    /// The same for requests without a valid signature.
    unsigned_log: LogLimit,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    reserve: usize,
    metrics: usize,
    /// Contains only addresses with connections.
    by_address: HashMap<IpAddr, OfAddress>,
}

#[derive(Debug, Default, Clone, Copy)]
struct OfAddress {
    open: usize,
    reserve: usize,
    settled: usize,
}

/// Why a connection or a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpLimitReached {
    /// The address of the client has too many connections.
    Address,
    /// The node has too many.
    Node,
}

/// Counts one HTTP connection, or one of its properties, until it is dropped.
#[derive(Debug)]
pub struct HttpPermit {
    limiter: Arc<HttpLimiter>,
    address: Option<IpAddr>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    /// A connection that is served from the reserve.
    Reserve(HttpLimitReached),
    /// A connection that is open for [`limits::HTTP_SETTLE_TIME`].
    Settled,
    /// A connection to the listener of the metrics.
    Metrics,
    /// A request of a client behind a trusted proxy, whose connection belongs to the proxy.
    Request,
}

impl HttpLimiter {
    pub fn new(
        bounds: HttpBounds,
        trusted_proxies: Vec<IpNet>,
        connections: Arc<Connections>,
    ) -> Arc<HttpLimiter> {
        // The limit in all includes a limit of files that is lower.
        let bounds = HttpBounds { connections_max: bounds.connections_max.min(bounds.files_max), ..bounds };
        Arc::new(HttpLimiter {
            bounds,
            trusted_proxies,
            connections,
            counts: Mutex::default(),
            unsigned_requests: Mutex::default(),
            log_limit: LogLimit::default(),
            unsigned_log: LogLimit::default(),
        })
    }

    /// Admits a connection of this peer, to the reserve if there is no other place.
    pub fn accept(self: &Arc<HttpLimiter>, peer: IpAddr) -> Result<HttpPermit, HttpLimitReached> {
        let address = self.bounded(peer);
        let sockets = self.connections.len();
        let mut counts = self.counts.lock();
        let of_address = counts.of(address);
        let is_address_full = address.is_some() && of_address.open >= self.burst_max();
        let is_node_full =
            counts.open >= self.bounds.connections_max || counts.open + sockets >= self.bounds.files_max;
        // No address has all of the reserve.
        let has_share = address.is_none() || of_address.reserve < self.bounds.reserve_max.div_ceil(4);
        let reached = match (is_address_full, is_node_full) {
            (false, false) => return Ok(self.permit(&mut counts, address, Kind::Connection)),
            (false, true) if has_share => HttpLimitReached::Node,
            _ => HttpLimitReached::Address,
        };
        let permit = if has_share && counts.reserve < self.bounds.reserve_max {
            metrics().http_connections_reserve.increment(1);
            Ok(self.permit(&mut counts, address, Kind::Reserve(reached)))
        } else {
            Err(reached)
        };
        drop(counts);
        match &permit {
            Ok(_) => self.log(peer, reached),
            Err(_) => self.refuse(peer, reached),
        }
        permit
    }

    /// Admits a request that a trusted proxy has forwarded for `client`.
    pub fn forwarded(self: &Arc<HttpLimiter>, client: IpAddr) -> Result<HttpPermit, HttpLimitReached> {
        let address = self.bounded(client);
        let mut counts = self.counts.lock();
        if address.is_some() && counts.of(address).open >= self.burst_max() {
            drop(counts);
            self.refuse(client, HttpLimitReached::Address);
            return Err(HttpLimitReached::Address);
        }
        Ok(self.permit(&mut counts, address, Kind::Request))
    }

    /// Counts a connection of this peer that is open for [`limits::HTTP_SETTLE_TIME`]. `None` at
    /// the limit of its address.
    pub fn settle(self: &Arc<HttpLimiter>, peer: IpAddr) -> Option<HttpPermit> {
        let address = self.bounded(peer);
        let mut counts = self.counts.lock();
        if address.is_some() && counts.of(address).settled >= self.bounds.per_address_max {
            drop(counts);
            self.refuse(peer, HttpLimitReached::Address);
            return None;
        }
        Some(self.permit(&mut counts, address, Kind::Settled))
    }

    /// Admits a connection to the listener of the metrics.
    pub fn accept_metrics(self: &Arc<HttpLimiter>) -> Result<HttpPermit, HttpLimitReached> {
        let mut counts = self.counts.lock();
        match counts.metrics < limits::METRICS_CONNECTIONS_MAX {
            true => Ok(self.permit(&mut counts, None, Kind::Metrics)),
            false => Err(HttpLimitReached::Node),
        }
    }

    /// Counts a request of this client without a valid signature. Returns the time for which its
    /// response has to wait.
    pub fn count_unsigned(&self, client: IpAddr) -> Duration {
        let Some(address) = self.bounded(client) else { return Duration::ZERO };
        let delay = self.unsigned_requests.lock().count(address, Instant::now());
        if !delay.is_zero() {
            metrics().unsigned_requests_delayed.increment(1);
            if self.unsigned_log.admits(&address.to_string()) {
                tracing::warn!(%client, "too many requests without a valid signature from this address, which is not in trusted_proxies: responses wait");
            }
        }
        delay
    }

    /// Forgets addresses that have sent no more than they may.
    pub fn remove_expired(&self) {
        self.unsigned_requests.lock().remove_expired(Instant::now());
    }

    fn refuse(&self, client: IpAddr, reached: HttpLimitReached) {
        metrics().http_connections_refused.increment(1);
        self.log(client, reached);
    }

    /// A proxy that is not in `trusted_proxies` has the connections of all its clients.
    fn log(&self, client: IpAddr, reached: HttpLimitReached) {
        if reached == HttpLimitReached::Address && self.log_limit.admits(&client.to_string()) {
            tracing::warn!(%client, "too many HTTP connections from this address, which is not in trusted_proxies");
        }
    }

    /// Whether a peer is a trusted proxy, whose requests are those of other clients.
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&peer.to_canonical()))
    }

    /// The address that connections of `peer` count for. One client has a whole network of
    /// 64 bits in IPv6.
    fn bounded(&self, peer: IpAddr) -> Option<IpAddr> {
        let address = match peer.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address => address,
        };
        (!self.is_trusted(peer)).then_some(address)
    }

    /// Connections of one address, new ones included: the last quarter is for the others.
    fn burst_max(&self) -> usize {
        self.bounds.connections_max.div_ceil(4) * 3
    }

    fn permit(
        self: &Arc<HttpLimiter>,
        counts: &mut Counts,
        address: Option<IpAddr>,
        kind: Kind,
    ) -> HttpPermit {
        counts.change(address, kind, |count| *count += 1);
        HttpPermit { limiter: self.clone(), address, kind }
    }
}

impl HttpPermit {
    /// Why the connection is served from the reserve, if it is.
    pub fn reserve(&self) -> Option<HttpLimitReached> {
        match self.kind {
            Kind::Reserve(reached) => Some(reached),
            _ => None,
        }
    }
}

impl Drop for HttpPermit {
    fn drop(&mut self) {
        let mut counts = self.limiter.counts.lock();
        counts.change(self.address, self.kind, |count| *count -= 1);
    }
}

impl Counts {
    fn of(&self, address: Option<IpAddr>) -> OfAddress {
        address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or_default()
    }

    fn change(&mut self, address: Option<IpAddr>, kind: Kind, change: impl Fn(&mut usize)) {
        match kind {
            Kind::Connection => change(&mut self.open),
            Kind::Reserve(_) => change(&mut self.reserve),
            Kind::Metrics => change(&mut self.metrics),
            Kind::Settled | Kind::Request => {}
        }
        metrics().http_connections.set((self.open + self.reserve) as f64);
        let Some(address) = address else { return };
        let of_address = self.by_address.entry(address).or_default();
        match kind {
            Kind::Connection | Kind::Request => change(&mut of_address.open),
            Kind::Reserve(_) => change(&mut of_address.reserve),
            Kind::Settled => change(&mut of_address.settled),
            Kind::Metrics => {}
        }
        let OfAddress { open, reserve, settled } = *of_address;
        if open + reserve + settled == 0 {
            self.by_address.remove(&address);
            // Memory that a flood took is given back.
            if self.by_address.capacity() > 1024 && self.by_address.len() < self.by_address.capacity() / 8 {
                self.by_address.shrink_to(self.by_address.len() * 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HttpBounds =
        HttpBounds { connections_max: 8, per_address_max: 2, files_max: 100, reserve_max: 4 };

    fn limiter(bounds: HttpBounds) -> Arc<HttpLimiter> {
        HttpLimiter::new(bounds, vec!["10.0.0.0/8".parse().expect("a network")], Arc::default())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn address_leaves_a_quarter_to_others_and_then_the_reserve() {
        use HttpLimitReached::{Address, Node};
        let limiter = limiter(BOUNDS);
        let accept = |text: &str| limiter.accept(address(text));
        let reserve = |text: &str| accept(text).map(|permit| (permit.reserve(), permit));
        let first: Vec<_> = (0..6).map(|_| accept("192.0.2.1").expect("a place")).collect();
        let (reached, in_reserve) = reserve("192.0.2.1").expect("its share of the reserve");
        assert_eq!(reached, Some(Address));
        assert_eq!(accept("::ffff:192.0.2.1").err(), Some(Address));
        let others: Vec<_> = (0..2).map(|_| reserve("10.0.0.1").expect("a place")).collect();
        assert!(others.iter().all(|(reached, _)| reached.is_none()));
        let (reached, other_reserve) = reserve("192.0.2.2").expect("a place in the reserve");
        assert_eq!(reached, Some(Node));
        assert_eq!(accept("192.0.2.2").err(), Some(Address), "a quarter of the reserve");
        let proxied: Vec<_> = (0..2).map(|_| accept("10.0.0.1").expect("a place in the reserve")).collect();
        assert_eq!(accept("10.0.0.1").err(), Some(Node));
        drop((first, others, in_reserve, other_reserve, proxied));
        let counts = limiter.counts.lock();
        assert_eq!((counts.open, counts.reserve, counts.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let limiter = limiter(BOUNDS);
        let of_network: Vec<_> = (0..6)
            .map(|host| limiter.accept(address(&format!("2001:db8::{host}"))).expect("a place"))
            .collect();
        let reserve = |text: &str| limiter.accept(address(text)).expect("a place").reserve();
        assert_eq!(reserve("2001:db8::ff:1"), Some(HttpLimitReached::Address));
        assert_eq!(reserve("2001:db8:0:1::"), None);
        drop(of_network);
    }

    #[test]
    fn limit_of_files_includes_websockets() {
        let limiter = limiter(HttpBounds { files_max: 1, ..BOUNDS });
        let first = limiter.accept(address("10.0.0.1")).expect("a place");
        assert_eq!(first.reserve(), None);
        let second = limiter.accept(address("10.0.0.1")).expect("a place in the reserve");
        assert_eq!(second.reserve(), Some(HttpLimitReached::Node));
    }

    #[test]
    fn settled_connections_of_an_address_are_bounded() {
        let limiter = limiter(BOUNDS);
        let settle = |text: &str| limiter.settle(address(text));
        let first = settle("192.0.2.1").expect("a place");
        let _second = settle("192.0.2.1").expect("a place");
        assert!(settle("192.0.2.1").is_none());
        let _other = settle("192.0.2.2").expect("a place");
        let _proxied: Vec<_> = (0..10).map(|_| settle("10.0.0.1").expect("a place")).collect();
        drop(first);
        assert!(settle("192.0.2.1").is_some());
    }

    #[test]
    fn requests_behind_a_proxy_count_for_their_client() {
        let limiter = limiter(BOUNDS);
        let requests: Vec<_> =
            (0..6).map(|_| limiter.forwarded(address("192.0.2.1")).expect("a place")).collect();
        assert_eq!(limiter.forwarded(address("192.0.2.1")).err(), Some(HttpLimitReached::Address));
        assert!(limiter.forwarded(address("192.0.2.2")).is_ok());
        assert_eq!(limiter.counts.lock().open, 0, "their connections are those of the proxy");
        drop(requests);
    }
}
