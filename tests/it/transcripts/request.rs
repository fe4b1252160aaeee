//! HTTP requests and their responses, as lines of a transcript.

use hyper::HeaderMap;

use crate::support::http::{self, Answer, Connection};
use crate::support::{Caller, Server};

/// Headers that are part of the protocol. A transcript contains each one in a response.
const PROTOCOL_HEADERS: &[&str] =
    &["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// The lines of a response: `200 {}`, then one line per header in [`PROTOCOL_HEADERS`].
pub fn lines(status: u16, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let kind = headers.get("content-type").map(|kind| kind.to_str().unwrap_or_default());
    let kind = kind.filter(|kind| *kind != "application/json").map(|kind| format!(" ({kind})"));
    let first = format!("{status}{} {}", kind.unwrap_or_default(), String::from_utf8_lossy(body));
    let headers = PROTOCOL_HEADERS.iter().filter_map(|name| {
        let value = headers.get(*name)?.to_str().unwrap_or_default();
        Some(format!("{name}: {value}"))
    });
    [first.trim_end().to_owned()].into_iter().chain(headers).collect()
}

/// Sends a request, such as `POST /apps/1/events {…}`, and returns the lines of its response.
/// Signed for the app in its path, unless there is the detail `unsigned`.
pub async fn send(node: &Server, text: &str, details: &[String]) -> Result<Vec<String>, String> {
    let mut words = text.splitn(3, ' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err("a request is a method, a path and an optional body".into());
    };
    let body = words.next().unwrap_or_default();
    let is_signed = target.contains("/apps/") && !details.iter().any(|detail| detail == "unsigned");
    let answer = match is_signed {
        true => signed(node, method, target, body, details).await?,
        false => unsigned(node, method, target, body, details).await?,
    };
    Ok(lines(answer.status, &answer.headers, &answer.body))
}

async fn signed(
    node: &Server,
    method: &str,
    target: &str,
    body: &str,
    details: &[String],
) -> Result<Answer, String> {
    let id = target.split('/').skip_while(|part| *part != "apps").nth(1).unwrap_or_default();
    // A request for an unknown app is signed with the credentials of app 1.
    let app = if ["1", "2", "3"].contains(&id) { id } else { "1" };
    let caller: Caller = node.caller(app);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = caller.request(method, "").path(path).body(body.to_owned());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        request = request.query_as(&decoded(key), &decoded(value), pair);
    }
    for detail in details {
        let (word, rest) = detail.split_once([' ', '=']).unwrap_or((detail, ""));
        request = match word {
            "without" => request.without(rest),
            "auth_key" => request.key(rest),
            "auth_version" => request.version(rest),
            "auth_signature" => request.signature(rest),
            "body_md5" => request.body_md5(rest),
            "secret" => request.secret(rest),
            "signed" => request.at(seconds(rest)?),
            "header" => {
                let (name, value) = header(rest)?;
                request.header(name, value)
            }
            "until" => request,
            "body" => request.body(hex::decode(rest).map_err(|error| error.to_string())?),
            _ => return Err(format!("a request has no detail {detail:?}")),
        };
    }
    request.try_send().await
}

async fn unsigned(
    node: &Server,
    method: &str,
    target: &str,
    body: &str,
    details: &[String],
) -> Result<Answer, String> {
    let mut request =
        hyper::Request::builder().method(method).uri(target).header("host", node.addr().to_string());
    for detail in details.iter().filter_map(|detail| detail.strip_prefix("header ")) {
        let (name, value) = header(detail)?;
        request = request.header(name, value);
    }
    let request = request.body(http::whole(body.to_owned())).map_err(|error| error.to_string())?;
    Connection::new(node.addr()).send(request).await
}

/// Parses the offset of `signed 601 seconds ago` and `signed 601 seconds ahead`.
fn seconds(text: &str) -> Result<i64, String> {
    let expected = || format!("`signed {text}` must be `signed N seconds ago` or `signed N seconds ahead`");
    let (count, direction) = text.split_once(" seconds ").ok_or_else(expected)?;
    let count: i64 = count.parse().map_err(|_| expected())?;
    match direction {
        "ago" => Ok(-count),
        "ahead" => Ok(count),
        _ => Err(expected()),
    }
}

pub fn header(text: &str) -> Result<(&str, &str), String> {
    text.split_once(": ").ok_or_else(|| format!("{text:?} is not a header"))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
