//! Admission of a connection: protocol version, app, origin and connection limit
//! (protocol.md 2.1, 6).

use std::sync::Arc;

use super::client::Client;
use crate::app::{App, OriginPattern};
use crate::node::Node;
use crate::sockets::connection_limit::{ConnectionPermit, LimitReached};
use crate::wire::close::Close;

/// Admits a client and takes a connection permit of its app, which the caller keeps until the
/// connection ends. Fails with the close code of the first check that fails.
pub(super) async fn admit(node: &Node, client: &Client) -> Result<(Arc<App>, ConnectionPermit), Close> {
    let app = check(node, client).await?;
    let permit =
        node.connection_limiter.acquire(&app).await.map_err(|LimitReached| Close::OverConnectionQuota)?;
    Ok((app, permit))
}

/// Returns the app that the client connects to, or the close code of the first failed check,
/// in the order of protocol.md 2.1. Takes no permit.
pub(super) async fn check(node: &Node, client: &Client) -> Result<Arc<App>, Close> {
    client.check_protocol()?;
    // The app cannot be read from Redis at the moment: 4100 makes the client retry later.
    let app = node.apps.by_key(&client.key).await.map_err(|_| Close::OverCapacity)?;
    let app = app.ok_or(Close::UnknownApp)?;
    if !app.enabled {
        return Err(Close::AppDisabled);
    }
    if !allows(&app.origins, client.origin.as_deref()) {
        return Err(Close::OriginNotAllowed);
    }
    Ok(app)
}

/// Whether one of `patterns` matches `origin`: the whole origin, as in `https://a.com:8443`,
/// its host with the port, or its host alone. An empty list allows every origin.
///
/// A client without an `Origin` header is not a browser, could send any origin, and is
/// admitted: the list keeps out the pages of other sites, not other programs.
fn allows(patterns: &[OriginPattern], origin: Option<&str>) -> bool {
    let Some(origin) = origin.filter(|_| !patterns.is_empty()) else { return true };
    let origin = origin.to_ascii_lowercase();
    let authority = origin.split_once("://").map_or(origin.as_str(), |(_, authority)| authority);
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host =
        authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    patterns.iter().any(|OriginPattern(pattern)| {
        let pattern = pattern.to_ascii_lowercase();
        [origin.as_str(), authority, host].into_iter().any(|text| matches(&pattern, text))
    })
}

/// Whether `pattern` matches all of `text`; `*` matches any text. The search for the pieces
/// between asterisks runs from left to right, the last piece has to be the end of the text,
/// and nothing backtracks: the time is linear in the length of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match text.split_once(piece) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`matches`] by its definition, in exponential time.
    fn matches_by_definition(pattern: &str, text: &str) -> bool {
        let Some(first) = pattern.chars().next() else { return text.is_empty() };
        let rest = &pattern[first.len_utf8()..];
        if first == '*' {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            return ends.into_iter().any(|at| matches_by_definition(rest, &text[at..]));
        }
        text.strip_prefix(first).is_some_and(|text| matches_by_definition(rest, text))
    }

    proptest! {
        #[test]
        fn asterisk_matches_any_text(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), matches_by_definition(&pattern, &text));
        }

        /// A client may send any text.
        #[test]
        fn any_origin_is_checked(pattern in "[a.:*/\\[\\]]{1,12}", origin in ".{0,200}") {
            let _ = allows(&[OriginPattern(pattern)], Some(&origin));
            prop_assert!(allows(&[OriginPattern("*".into())], Some(&origin)));
        }

        /// A pattern without an asterisk allows no origin of another host.
        #[test]
        fn exact_pattern_allows_its_own_host_only(origin in "[a-z:/.@\\[\\]]{0,30}") {
            let host = origin.rsplit("://").next().unwrap_or_default();
            if allows(&[OriginPattern("a.com".into())], Some(&origin)) {
                prop_assert!(host == "a.com" || host.starts_with("a.com:"), "{}", origin);
            }
        }
    }

    #[test]
    fn origin_pattern_matches_origin_authority_or_host() {
        for (pattern, origin, allowed) in [
            ("*", "https://a.com", true),
            ("*", "null", true),
            ("https://a.com", "https://a.com", true),
            ("https://a.com", "http://a.com", false),
            ("https://a.com", "https://a.com:8443", false),
            ("https://a.com", "https://a.com.evil.com", false),
            ("https://a.com:8443", "https://a.com:8443", true),
            ("https://a.com:*", "https://a.com:8443", true),
            ("a.com", "https://a.com", true),
            ("a.com", "http://a.com:3000", true),
            ("A.com", "HTTPS://a.COM", true),
            ("a.com", "https://b.a.com", false),
            ("a.com", "https://nota.com", false),
            ("a.com:3000", "http://a.com:3000", true),
            ("a.com:3000", "http://a.com", false),
            ("*.a.com", "https://b.a.com", true),
            ("*.a.com", "https://c.b.a.com:1", true),
            ("*.a.com", "https://a.com", false),
            ("https://*.a.com", "https://b.a.com", true),
            ("https://*.a.com", "https://b.a.com:1", false),
            ("https://*-app.*.com", "https://my-app.a.com", true),
            ("https://*-app.*.com", "https://my-app.com", false),
            ("a*a", "a", false),
            ("[::1]:3000", "http://[::1]:3000", true),
            ("[::1]", "http://[::1]:3000", true),
            ("[::1]", "http://[::1]", true),
            ("null", "null", true),
            ("a.com", "null", false),
            ("a.com", "", false),
        ] {
            let patterns = [OriginPattern("elsewhere.com".into()), OriginPattern(pattern.into())];
            assert_eq!(allows(&patterns, Some(origin)), allowed, "{pattern} and {origin}");
            assert!(allows(&patterns, None), "{pattern} and no origin");
            assert!(allows(&[], Some(origin)), "{origin}");
        }
    }
}
