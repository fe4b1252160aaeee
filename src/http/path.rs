//! Paths: normalisation for routing, the variants that a client may have signed, and path
//! parameters (protocol.md 1.1, 1.2).

use axum::extract::{FromRequestParts, Path, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::ApiError;

/// The parameters of a path, percent-decoded once. The rejection is a 400.
#[derive(Debug)]
pub(super) struct PathParams<T>(pub(super) T);

impl<S, T> FromRequestParts<S> for PathParams<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathParams<T>, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(found)) => Ok(PathParams(found)),
            Err(rejection) => Err(ApiError::invalid_path(&rejection)),
        }
    }
}

/// Removes repeated and trailing slashes from the path of a request. Many clients join a base
/// URL and a path with one slash too many.
pub(super) async fn normalize(mut request: Request) -> Request {
    let uri = request.uri();
    if let Some(path) = normalized(uri.path()) {
        let path_and_query = match uri.query() {
            Some(query) => [&path, "?", query].concat(),
            None => path,
        };
        if let Ok(path_and_query) = PathAndQuery::try_from(path_and_query) {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.path_and_query = Some(path_and_query);
            *request.uri_mut() = Uri::from_parts(parts).expect("only the path has changed");
        }
    }
    request
}

/// The path without repeated and trailing slashes, or `None` if it has none.
fn normalized(path: &str) -> Option<String> {
    let is_normal = !path.contains("//") && (path == "/" || !path.ends_with('/'));
    (!is_normal).then(|| {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        let path: String = segments.flat_map(|segment| ["/", segment]).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    })
}

/// The path below `prefix`, or the whole path if it does not begin with `prefix`.
pub(super) fn below<'a>(path: &'a str, prefix: &str) -> &'a str {
    path.strip_prefix(prefix).filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

/// The variants of the received path that a client may have signed (protocol.md 1.2), without
/// duplicates, at most 40, the received path first. Proxies collapse slashes, strip or add a
/// prefix, and decode; some libraries sign an id unencoded and send it encoded.
pub(super) fn signed_paths(received: &str, prefix: &str) -> Vec<String> {
    let normal = normalized(received).unwrap_or_else(|| received.to_owned());
    let slashes = [received, &normal, &[&normal, "/"].concat(), &["/", &normal].concat()].map(str::to_owned);
    let prefixes = slashes.into_iter().flat_map(|path| {
        let other = match below(&path, prefix) {
            rest if rest.len() < path.len() => rest.to_owned(),
            _ => [prefix, &path].concat(),
        };
        [path, other]
    });
    let mut paths: Vec<String> = Vec::new();
    for path in prefixes.flat_map(encodings) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// The characters of a segment that encodeURIComponent, RFC 3986 and encodeURI encode.
const COMPONENT: &AsciiSet = &UNRESERVED.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const WHOLE_URI: &AsciiSet = &COMPONENT
    .remove(b';')
    .remove(b',')
    .remove(b':')
    .remove(b'@')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'$');

/// The path as received, encoded in the three ways of common libraries, and decoded.
fn encodings(path: String) -> [String; 5] {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let decoded = decode(&path);
    // Segment by segment, so that a slash within a segment stays encoded.
    let encoded = |set| {
        let segments = path.split('/').map(|segment| utf8_percent_encode(&decode(segment), set).to_string());
        segments.collect::<Vec<_>>().join("/")
    };
    let [component, unreserved, whole] = [COMPONENT, UNRESERVED, WHOLE_URI].map(encoded);
    [path, component, unreserved, whole, decoded]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normalized_path_has_no_repeated_and_no_trailing_slash() {
        for (path, normal) in [
            ("/apps/1/events", None),
            ("/", None),
            ("//", Some("/")),
            ("//apps///1/events", Some("/apps/1/events")),
            ("/apps/1/events/", Some("/apps/1/events")),
            ("/apps/1/events//", Some("/apps/1/events")),
            ("/apps/%2F/", Some("/apps/%2F")),
        ] {
            assert_eq!(normalized(path).as_deref(), normal, "{path}");
        }
        assert_eq!(normalized(&"/".repeat(4_000)).as_deref(), Some("/"));
    }

    #[test]
    fn signed_paths_contain_the_path_before_a_proxy_rewrite() {
        for (received, prefix, signed) in [
            ("/apps/1/events", "", "/apps/1/events"),
            ("/apps/1/events", "/realtime", "/realtime/apps/1/events"),
            ("/realtime/apps/1/events", "/realtime", "/apps/1/events"),
            ("//apps/1/events/", "", "/apps/1/events"),
            ("//apps/1/events/", "", "//apps/1/events/"),
            ("/apps/1/events", "", "//apps/1/events"),
            ("/apps/1/events", "", "/apps/1/events/"),
            ("/apps/1/channels/private-a%3Ab", "", "/apps/1/channels/private-a:b"),
            ("/apps/1/channels/private-a:b", "", "/apps/1/channels/private-a%3Ab"),
            ("/apps/1/channels/a:b", "/realtime", "/realtime/apps/1/channels/a%3Ab"),
            ("/apps/1/users/auth0%7C5f7c/x", "", "/apps/1/users/auth0|5f7c/x"),
            ("/apps/1/users/auth0|5f7c/x", "", "/apps/1/users/auth0%7C5f7c/x"),
            ("/apps/1/users/a:b|c/x", "", "/apps/1/users/a:b%7Cc/x"),
            ("/apps/1/users/J%C3%BCrgen%20M/x", "", "/apps/1/users/Jürgen M/x"),
            ("/apps/1/users/it's%20(me)/x", "", "/apps/1/users/it%27s%20%28me%29/x"),
            ("/apps/1/users/team%2FO%27Hara/x", "", "/apps/1/users/team%2FO'Hara/x"),
        ] {
            let paths = signed_paths(received, prefix);
            assert!(paths.contains(&signed.to_owned()), "{received}: {paths:?}");
            assert_eq!(paths[0], received);
        }
        let plain = signed_paths("/apps/1/events", "");
        assert_eq!(plain, ["/apps/1/events", "/apps/1/events/", "//apps/1/events"]);
    }

    proptest! {
        #[test]
        fn signed_paths_are_distinct_and_bounded(path in "/[a-z/%0-9|: é]{0,40}", prefix in "(/[a-z]{1,3})?") {
            let mut paths = signed_paths(&path, &prefix);
            prop_assert!(paths.len() <= 40 && paths[0] == path);
            let count = paths.len();
            paths.sort();
            paths.dedup();
            prop_assert_eq!(paths.len(), count);
        }
    }
}
