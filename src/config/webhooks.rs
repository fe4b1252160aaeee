//! `[[apps.webhooks]]`: a list of tables (protocol.md 5), with the key names of Sockudo
//! and of soketi.

use std::collections::BTreeMap;

use super::fault::{Fault, Mistake, Wrong};
use super::raw::{HIDDEN, Raw, listed, quoted};
use super::table::Table;
use crate::app::{HookedEvents, Webhook};

pub(super) const EXPECTED: &str = "a list of tables, [[apps.webhooks]], each with a `url`; \
     in a variable that list as in the file, or URLs with commas between them";

const NAMES: &[&str] = &["url", "event_types", "headers", "filter"];
const UNSUPPORTED: &[&str] = &["lambda", "lambda_function"];
const FILTERS: &[&str] =
    &["channel_prefix", "channel_name_starts_with", "channel_suffix", "channel_name_ends_with"];
const UNSUPPORTED_FILTERS: &[&str] = &["channel_pattern", "channel_namespace", "channel_namespaces"];

const URL: &str = "a URL that begins with http:// or https://, without a user or a fragment";
const HEADERS: &str = "a table of header names and texts";

pub(super) fn read(raw: &Raw) -> Result<Vec<Webhook>, Wrong> {
    let parsed = raw.parsed();
    match parsed.as_ref().unwrap_or(raw) {
        Raw::List(list) => read_list(list),
        raw if raw.is_empty() => Ok(Vec::new()),
        // In an environment variable: `https://a.example/hook,https://b.example`.
        Raw::Text(text) => {
            let hook = |url: &str| Some(Webhook { url: read_url(url.trim())?, ..every_event() });
            let hooks = text.split([',', '\n']).map(hook).collect::<Option<Vec<_>>>();
            hooks.ok_or_else(|| Wrong::Expected(EXPECTED.to_owned()))
        }
        _ => Err(Wrong::Expected(EXPECTED.to_owned())),
    }
}

fn read_list(list: &[Raw]) -> Result<Vec<Webhook>, Wrong> {
    let mut mistakes = Vec::new();
    let mut hooks = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let inside = format!("[{index}]");
        match item {
            Raw::Table(members) => hooks.extend(read_hook(members, inside, &mut mistakes)),
            _ => {
                let (expected, found) = ("a table with a `url`".to_owned(), HIDDEN.to_owned());
                mistakes.push(Mistake { inside, fault: Fault::Expected { expected, found } });
            }
        }
    }
    if mistakes.is_empty() { Ok(hooks) } else { Err(Wrong::Inside(mistakes)) }
}

fn every_event() -> Webhook {
    let events = HookedEvents::ALL;
    Webhook { url: String::new(), events, headers: Vec::new(), channel_prefix: None, channel_suffix: None }
}

fn read_hook(
    members: &BTreeMap<String, Raw>,
    inside: String,
    mistakes: &mut Vec<Mistake>,
) -> Option<Webhook> {
    let mut table = Table::new(members, inside, NAMES, UNSUPPORTED, mistakes);
    let mut hook = every_event();
    let is_lambda = UNSUPPORTED.iter().any(|name| table.has(name));
    // A Lambda function without a URL is one mistake, not two.
    let url = match is_lambda {
        true => None,
        false => table.require("url", URL, |raw| raw.text().and_then(read_url), shown_refused),
    };
    let names = format!("a list of {}", HookedEvents::NAMES.join(", "));
    if let Some(events) = table.read("event_types", &names, read_events) {
        hook.events = events;
    }
    if let Some((headers, inside, mistakes)) = table.within("headers") {
        hook.headers = read_headers(headers, &inside, mistakes);
    }
    if let Some((filter, inside, mistakes)) = table.within("filter") {
        let mut filter = Table::new(filter, inside, FILTERS, UNSUPPORTED_FILTERS, mistakes);
        hook.channel_prefix = read_spellings(&mut filter, FILTERS[0], FILTERS[1]);
        hook.channel_suffix = read_spellings(&mut filter, FILTERS[2], FILTERS[3]);
    }
    url.map(|url| Webhook { url, ..hook })
}

fn read_url(text: &str) -> Option<String> {
    let uri: hyper::Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let plain = !authority.as_str().contains('@') && !authority.host().is_empty() && !text.contains('#');
    let has_port = authority.port_u16().is_some() || authority.as_str() == authority.host();
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    (http && plain && has_port).then(|| text.to_owned())
}

/// `None` for an empty list: such a webhook would never be called. An absent list means
/// every event type.
fn read_events(raw: &Raw) -> Option<HookedEvents> {
    let names = raw.texts().filter(|names| !names.is_empty())?;
    names.iter().try_fold(HookedEvents::default(), |all, name| Some(all.union(HookedEvents::of(name)?)))
}

/// Parses custom headers. None may begin with `X-Pusher-`, so that receivers can rely on
/// the server's signature. Values may be credentials and are never shown.
fn read_headers(
    members: &BTreeMap<String, Raw>,
    inside: &str,
    mistakes: &mut Vec<Mistake>,
) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, value) in members {
        let valid = hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && !name.to_ascii_lowercase().starts_with("x-pusher-");
        let value = value.word().filter(|it| hyper::header::HeaderValue::from_str(it).is_ok());
        match value.filter(|_| valid) {
            Some(value) => headers.push((name.clone(), value)),
            None => {
                let expected = format!("{HEADERS}, none of them X-Pusher-…");
                let fault = Fault::Expected { expected, found: HIDDEN.to_owned() };
                mistakes.push(Mistake { inside: format!("{inside}.{name}"), fault });
            }
        }
    }
    headers
}

/// Reads one setting that has two names; both at once are a mistake.
fn read_spellings(filter: &mut Table<'_>, name: &str, other: &str) -> Option<String> {
    let text = |raw: &Raw| raw.text().map(str::to_owned);
    let (first, second) = (filter.read(name, "a text", text), filter.read(other, "a text", text));
    if first.is_some() && second.is_some() {
        filter.refuse(other, &format!("left out where there is `{name}`"), "there too".to_owned());
    }
    first.or(second)
}

/// The URL for output: path and query may contain a token.
fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = if path.len() > 1 { format!("/{HIDDEN}") } else { path.to_owned() };
    format!("{scheme}://{host}{path}")
}

/// The same for a value that is not accepted, and may have a password anywhere before an `@`.
fn shown_refused(raw: &Raw) -> String {
    match raw.text().filter(|text| text.contains("://") && !text.contains('@')) {
        Some(text) => quoted(&shown_url(text)),
        None => HIDDEN.to_owned(),
    }
}

/// TOML notation, with possible secrets hidden.
pub(super) fn shown(hook: &Webhook) -> String {
    let mut members = vec![format!("url = {}", quoted(&shown_url(&hook.url)))];
    if hook.events != HookedEvents::ALL {
        let names = HookedEvents::NAMES.into_iter().filter(|name| hook.events.has(name));
        members.push(format!("event_types = {}", listed(names.map(quoted))));
    }
    if !hook.headers.is_empty() {
        let names = hook.headers.iter().map(|(name, _)| format!("{name} = [hidden]"));
        members.push(format!("headers = {{ {} }}", names.collect::<Vec<_>>().join(", ")));
    }
    for (name, text) in [(FILTERS[0], &hook.channel_prefix), (FILTERS[2], &hook.channel_suffix)] {
        members.extend(text.as_ref().map(|text| format!("filter.{name} = {}", quoted(text))));
    }
    format!("{{ {} }}", members.join(", "))
}
