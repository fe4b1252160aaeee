//! The client of a connection, as described by its handshake (protocol.md 2.1, 3.6).

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::sync::Arc;

use crate::sockets::http_limit::HttpPermit;
use crate::wire::close::Close;
use crate::wire::event_prefix::EventPrefix;

const SUBPROTOCOL: &str = "pusher-channels-protocol-";

/// Whether an item of `Sec-WebSocket-Protocol` names a version of Pusher's protocol, supported
/// or not.
pub fn is_pusher_subprotocol(offered: &str) -> bool {
    offered.starts_with(SUBPROTOCOL)
}

/// Whether an item of `Sec-WebSocket-Protocol` names a supported version: 4 to 7.
pub fn is_supported_subprotocol(offered: &str) -> bool {
    offered.strip_prefix(SUBPROTOCOL).is_some_and(|version| ["4", "5", "6", "7"].contains(&version))
}

/// Path, query parameters and headers of a handshake, as far as the connection uses them.
#[derive(Debug)]
pub struct Client {
    /// The app key in the path.
    pub key: String,
    /// The `Origin` header. Only browsers send one.
    pub origin: Option<String>,
    /// The client's address, for the log.
    pub address: Option<IpAddr>,
    /// The handshake offers Pusher subprotocols, none of which is supported.
    pub is_subprotocol_unsupported: bool,
    /// Counts the connection as an HTTP connection until an app has admitted it; behind a
    /// trusted proxy, also for the address of the client.
    pub http_permits: Option<(HttpPermit, Option<Arc<HttpPermit>>)>,
    protocol: Option<String>,
    format: Option<String>,
    name: String,
    version: String,
}

impl Client {
    pub fn new(key: String, mut query: HashMap<String, String>) -> Client {
        let mut take = |name: &str| query.remove(name);
        Client {
            key,
            origin: None,
            address: None,
            is_subprotocol_unsupported: false,
            http_permits: None,
            protocol: take("protocol"),
            format: take("format"),
            name: take("client").unwrap_or_default(),
            version: take("version").unwrap_or_default(),
        }
    }

    /// Checks `protocol`, `format` and the subprotocol (protocol.md 2.1). The server treats the
    /// versions 4 to 7 alike, and a client without a version as one of them. `format` counts
    /// only with version 2, and JSON is the only format of the server.
    pub fn check_protocol(&self) -> Result<(), Close> {
        match self.protocol() {
            Some(Ok(2)) if self.format.as_ref().is_some_and(|format| format != "json") => {
                Err(Close::UnsupportedFormat)
            }
            None if self.is_subprotocol_unsupported => Err(Close::UnsupportedProtocol),
            None | Some(Ok(2 | 4..=7)) => Ok(()),
            Some(Ok(_)) => Err(Close::UnsupportedProtocol),
            Some(Err(_)) => Err(Close::InvalidVersion),
        }
    }

    /// The event prefix of the connection, also of the error that refuses it.
    pub fn event_prefix(&self) -> EventPrefix {
        match self.protocol() {
            Some(Ok(2)) => EventPrefix::Sockudo,
            _ => EventPrefix::Pusher,
        }
    }

    fn protocol(&self) -> Option<Result<u32, ParseIntError>> {
        self.protocol.as_deref().map(str::parse)
    }

    /// Whether one of `patterns`, such as `python/<=2.2`, matches this client.
    ///
    /// `name` or `name/*` matches any version, `name/2.2` every 2.2, `name/<=2.2` every 2.2
    /// and earlier version (protocol.md 3.6).
    pub fn matches_any(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| self.matches(pattern))
    }

    fn matches(&self, pattern: &str) -> bool {
        let (name, versions) = pattern.split_once('/').unwrap_or((pattern, "*"));
        if !name.eq_ignore_ascii_case(&self.name) {
            return false;
        }
        let numbers =
            |text: &str| -> Vec<u64> { text.split('.').map_while(|part| part.parse().ok()).collect() };
        let up_to = versions.strip_prefix("<=");
        let limit = numbers(up_to.unwrap_or(versions));
        let mut own = numbers(&self.version);
        own.truncate(limit.len());
        versions == "*" || own == limit || (up_to.is_some() && own < limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(query: &[(&str, &str)]) -> Client {
        Client::new("key".into(), query.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    #[test]
    fn protocol_version_selects_event_prefix_or_close_code() {
        for (protocol, expected, event_prefix) in [
            (None, Ok(()), EventPrefix::Pusher),
            (Some("4"), Ok(()), EventPrefix::Pusher),
            (Some("7"), Ok(()), EventPrefix::Pusher),
            (Some("2"), Ok(()), EventPrefix::Sockudo),
            (Some("3"), Err(Close::UnsupportedProtocol), EventPrefix::Pusher),
            (Some("8"), Err(Close::UnsupportedProtocol), EventPrefix::Pusher),
            (Some("seven"), Err(Close::InvalidVersion), EventPrefix::Pusher),
            (Some(""), Err(Close::InvalidVersion), EventPrefix::Pusher),
        ] {
            let query: Vec<_> = protocol.map(|protocol| ("protocol", protocol)).into_iter().collect();
            let client = client(&query);
            assert_eq!(
                (client.check_protocol(), client.event_prefix()),
                (expected, event_prefix),
                "{protocol:?}"
            );
        }
    }

    #[test]
    fn format_parameter_is_ignored_except_with_protocol_2() {
        for (protocol, format, expected) in [
            ("2", "json", Ok(())),
            ("2", "messagepack", Err(Close::UnsupportedFormat)),
            ("2", "protobuf", Err(Close::UnsupportedFormat)),
            ("2", "", Err(Close::UnsupportedFormat)),
            ("7", "messagepack", Ok(())),
        ] {
            let client = client(&[("protocol", protocol), ("format", format)]);
            assert_eq!(client.check_protocol(), expected, "{protocol} {format}");
        }
    }

    #[test]
    fn client_pattern_matches_name_and_version() {
        for (pattern, name, version, matches) in [
            ("python/<=2.2", "python", "2.2.0", true),
            ("python/<=2.2", "python", "2.0", true),
            ("python/<=2.2", "python", "1.9.9", true),
            ("python/<=2.2", "python", "2.3.0", false),
            ("python/<=2.2", "python", "10.0", false),
            ("python/<=2.2", "python", "", true),
            ("python/<=2.2", "js", "1.0", false),
            ("python/2.2", "python", "2.2.7", true),
            ("python/2.2", "python", "2.1", false),
            ("python", "Python", "9", true),
            ("python/*", "python", "9", true),
        ] {
            let client = client(&[("client", name), ("version", version)]);
            assert_eq!(client.matches_any(&[pattern.to_owned()]), matches, "{pattern} {name} {version}");
        }
    }
}
