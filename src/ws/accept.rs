//! Who may connect (protocol.md 2.1, 6).

use std::sync::Arc;

use super::client::Client;
use crate::app::{App, OriginPattern};
use crate::connection_limit::{ConnectionPermit, LimitReached};
use crate::node::Node;
use crate::wire::close::Close;

/// Admits a client, and takes a permit of the app's for as long as it stays.
pub(super) async fn enter(node: &Node, client: &Client) -> Result<(Arc<App>, ConnectionPermit), Close> {
    let app = admit(node, client).await?;
    let permit =
        node.connection_limiter.acquire(&app).await.map_err(|LimitReached| Close::OverConnectionQuota)?;
    Ok((app, permit))
}

/// The app that the client connects to, or why it may not.
pub(super) async fn admit(node: &Node, client: &Client) -> Result<Arc<App>, Close> {
    client.check_protocol()?;
    // Where the apps are not known just now, the client comes back later.
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

/// Whether one of `patterns` names the page that connects: the whole origin, as
/// in `https://a.com:8443`, what is behind its scheme, or its host alone. None of
/// them allows all.
///
/// A client without an origin is no browser, could name any, and is let in: the
/// list keeps other people's pages away, not other people.
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

/// `*` stands for any text. The pieces between are looked for from the left,
/// each behind the one before, and the last at the end: no text makes it slow.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match text.split_once(piece) {
            Some((_, behind)) => text = behind,
            None => return false,
        }
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_origins() {
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
