//! Settings of the network edge: allowed origins of browsers, trusted proxies, and the
//! prefix of paths.

use std::net::IpAddr;

use ipnet::IpNet;

pub(super) const ORIGINS_EXPECTED: &str = "`*` for all, or a list that is not empty of `SCHEME://HOST[:PORT]` or `HOST[:PORT]` without a path, \
     with `*` for any characters, such as `https://*.example.com`";
pub(super) const NETWORKS_EXPECTED: &str =
    "a list of addresses and CIDRs, such as `10.0.0.0/8`, `192.0.2.7` or `fd00::/8`";
pub(super) const PATH_PREFIX_EXPECTED: &str = "empty, or a path such as `/realtime`: of letters, digits, `-`, `_`, `.` and `~`, without a slash at its end";

/// Origin patterns in lower case, as browsers send origins. If one is `*`, the result is
/// an empty list, which allows all. An empty list is refused: to some it means all, to others
/// nobody.
pub(super) fn read_origins(texts: Vec<String>) -> Option<Vec<String>> {
    let patterns: Vec<String> = texts.into_iter().map(|text| text.to_ascii_lowercase()).collect();
    if patterns.is_empty() || !patterns.iter().all(|pattern| is_origin(pattern)) {
        return None;
    }
    let all = patterns.iter().any(|pattern| pattern == "*");
    Some(if all { Vec::new() } else { patterns })
}

/// Whether the pattern can match an origin. One with a path, for example, never does.
fn is_origin(pattern: &str) -> bool {
    let (scheme, host) = pattern.split_once("://").unwrap_or(("*", pattern));
    let is_made_of = |text: &str, extra: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    is_made_of(scheme, "+-.*") && is_made_of(host, "-._:[]*")
}

/// Parses addresses and CIDRs. A single address becomes a network of one address.
pub(super) fn read_networks(texts: &[String]) -> Option<Vec<IpNet>> {
    let network = |text: &String| match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().ok().map(|it| it.trunc()),
    };
    texts.iter().map(network).collect()
}

pub(super) fn is_path_prefix(text: &str) -> bool {
    let is_segment = |segment: &str| {
        let plain = segment.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
        plain && !matches!(segment, "" | "." | "..")
    };
    text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn origins() {
        for good in ["https://a.example", "http://localhost:3000", "*.Example.com", "http://[::1]:80", "null"]
        {
            assert_eq!(read_origins(texts(&[good])), Some(vec![good.to_lowercase()]), "{good}");
        }
        assert_eq!(read_origins(texts(&["https://a", "*"])), Some(vec![]));
        assert_eq!(read_origins(vec![]), None);
        for wrong in ["", "https://", "https://a/", "https://a/path", "a b", "://a", "https://a?b"] {
            assert_eq!(read_origins(texts(&[wrong])), None, "{wrong}");
        }
    }

    #[test]
    fn networks() {
        let read = |list: &[&str]| {
            read_networks(&texts(list)).map(|nets| nets.iter().map(IpNet::to_string).collect())
        };
        assert_eq!(
            read(&["10.1.2.3/8", "192.0.2.7", "fd00::/8", "::1"]),
            Some(texts(&["10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "::1/128"]))
        );
        for wrong in ["", "10.0.0.0/33", "10.0.0", "proxy", "10.0.0.1:80"] {
            assert_eq!(read(&[wrong]), None, "{wrong}");
        }
    }

    #[test]
    fn path_prefixes() {
        for good in ["", "/a", "/realtime/v1", "/a-b_c.d~e"] {
            assert!(is_path_prefix(good), "{good}");
        }
        for wrong in ["/", "a", "/a/", "//a", "/a//b", "/a b", "/a?b", "/../a", "/{x}", "/%41"] {
            assert!(!is_path_prefix(wrong), "{wrong}");
        }
    }
}
