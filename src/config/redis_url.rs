//! The Redis URL: its syntax, and its form without the password.

use percent_encoding::percent_decode_str;

/// The reason why a URL is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RedisUrlError {
    /// A kind of Redis that is not implemented yet.
    Unsupported(&'static str),
    Malformed,
}

const UNSUPPORTED: &[&str] = &[
    "redis-cluster://",
    "rediss-cluster://",
    "redis-sentinel://",
    "rediss-sentinel://",
    "redis+unix://",
    "unix://",
];

/// `redis://[user]:[password]@host[:port][/database]`, or `rediss://` for TLS.
///
/// A query is an error and not ignored, because it would have no effect. In a password, characters
/// with a meaning in a URL are percent-encoded. The client library sends user and password within a
/// line of words, so spaces and quotes in them would change its meaning.
pub(super) fn check(url: &str) -> Result<(), RedisUrlError> {
    if let Some(scheme) = UNSUPPORTED.iter().find(|scheme| url.starts_with(**scheme)) {
        return Err(RedisUrlError::Unsupported(scheme));
    }
    let rest = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://"));
    let rest = rest.ok_or(RedisUrlError::Malformed)?;
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    // The colons of an IPv6 address are within brackets.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let host_good = !host.is_empty() && !host.contains(['?', '#', ' ', '@']);
    let port_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let database_good = database.is_empty() || database.parse::<u8>().is_ok();
    let is_of_one_word = percent_decode_str(credentials)
        .all(|byte| !byte.is_ascii_whitespace() && !byte.is_ascii_control() && !b"\"'".contains(&byte));
    let credentials_good =
        is_of_one_word && !credentials.contains(['?', '#', '@']) && is_percent_encoded(credentials);
    if credentials_good && host_good && port_good && database_good {
        Ok(())
    } else {
        Err(RedisUrlError::Malformed)
    }
}

/// Whether every `%` is followed by two hexadecimal digits.
fn is_percent_encoded(text: &str) -> bool {
    let is_encoded =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    text.split('%').skip(1).all(is_encoded)
}

/// The URL without its password, for output.
///
/// This works for mistyped URLs too: everything before the last `@` of the text is
/// hidden, except the scheme and a user name, and so is a query, where other programs
/// accept a password.
pub fn hide_password(url: &str) -> String {
    let (credentials, address) = match url.rsplit_once('@') {
        Some((before, address)) => (hide_credentials(before), address),
        None => (String::new(), url),
    };
    match address.split_once('?') {
        Some((address, _)) => format!("{credentials}{address}?[hidden]"),
        None => format!("{credentials}{address}"),
    }
}

fn hide_credentials(before: &str) -> String {
    let (scheme, credentials) = match before.find("://") {
        Some(at) => before.split_at(at + 3),
        None => ("", before),
    };
    let user = credentials.split_once(':').map(|(user, _)| format!("{user}:")).unwrap_or_default();
    format!("{scheme}{user}[hidden]@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_accepts_urls_of_one_redis() {
        for url in [
            "redis://localhost",
            "redis://localhost:6379",
            "redis://:pass@10.0.0.1:6379/3",
            "rediss://user:p%40ss@redis.example:6380/",
            "redis://:a$b\\é%25%2F@h",
            "redis://[::1]:6379",
            "redis://[::1]",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn check_rejects_clusters_sentinels_and_malformed_urls() {
        let cluster = Err(RedisUrlError::Unsupported("redis-cluster://"));
        assert_eq!(check("redis-cluster://a:6379"), cluster);
        let sentinel = Err(RedisUrlError::Unsupported("redis-sentinel://"));
        assert_eq!(check("redis-sentinel://a:26379"), sentinel);
        for url in [
            "",
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://:6379",
            "redis://h:0",
            "redis://h:port",
            "redis://h/db",
            "redis://h?node=b",
            "redis://h:6379?node=b",
            "redis://h/0?node=b",
            "redis://:a#b@h",
            "redis://:a?b@h",
            "redis://:a@b@h",
            "redis://:a/b@h",
            "redis://:100%@h",
            "redis://:%zz@h",
            "redis://:%é@h",
            "redis://:a b@h",
            "redis://:a%20b@h",
            "redis://:a'b@h",
            "redis://:a%22b@h",
            "redis://:a%0Db@h",
        ] {
            assert_eq!(check(url), Err(RedisUrlError::Malformed), "{url}");
        }
    }

    #[test]
    fn hide_password_hides_credentials_and_query() {
        assert_eq!(hide_password("redis://h:6379/1"), "redis://h:6379/1");
        assert_eq!(hide_password("redis://:pw@h"), "redis://:[hidden]@h");
        assert_eq!(hide_password("rediss://ann:p@w@h:1"), "rediss://ann:[hidden]@h:1");
        assert_eq!(hide_password("redis://:a/b@h"), "redis://:[hidden]@h");
        assert_eq!(hide_password("redis://token@h"), "redis://[hidden]@h");
        assert_eq!(hide_password("user:pw@h"), "user:[hidden]@h");
        assert_eq!(hide_password("redis://h?password=pw"), "redis://h?[hidden]");
    }
}
