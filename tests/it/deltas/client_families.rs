//! The published families of clients that decode deltas, each with the markers that
//! it strips from a full event and its choice of a base for a delta (protocol.md
//! 3.5, 3.6), on frames of a real server: a family decodes the published bytes, or
//! loses deltas.

use std::collections::HashMap;

use fanfare::delta::fossil;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::delta_client::{cut, strip};
use crate::support::{AppSpec, Server, bounded};

// --- server settings ------------------------------------------------------------

/// How a full event is marked as a base, and whether the channel has a chain for
/// each value of a key.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// `[delta_compression] markers`; None leaves the default, which is
    /// underscores.
    markers: Option<&'static str>,
    keyed: bool,
}

const UNDERSCORES: Style = Style { markers: None, keyed: false };
const UNDERSCORES_AND_KEYS: Style = Style { markers: None, keyed: true };
const PLAIN: Style = Style { markers: Some("plain"), keyed: false };
const PLAIN_AND_KEYS: Style = Style { markers: Some("plain"), keyed: true };

/// The families that decode everything, by server settings.
const READERS: &[(Style, &[&str])] = &[
    (UNDERSCORES, &["sockudo-js", "Swift", "Flutter", "Kotlin"]),
    (UNDERSCORES_AND_KEYS, &["sockudo-js", "Swift", "Flutter"]),
    (PLAIN, &["sockudo-js", "Swift", "Flutter", "Kotlin", ".NET"]),
    (PLAIN_AND_KEYS, &["sockudo-js", "Swift", "Flutter", "Kotlin", ".NET"]),
];

#[tokio::test]
async fn client_families_decode_everything_or_lose_deltas_only() {
    for (style, readers) in READERS {
        bounded(check(*style, readers)).await;
    }
}

/// The other families lose deltas, and nothing else.
async fn check(style: Style, readers: &[&str]) {
    let recording = record(style).await;
    assert!(
        recording.iter().filter(|(_, frame)| is_delta(frame)).count() > 20,
        "many events are sent as deltas"
    );
    for family in FAMILIES {
        let mut decoder = Decoder::new(family);
        let mut lost = 0;
        for (published, frame) in &recording {
            let read = decoder.read(frame);
            lost += usize::from(read.is_none());
            assert!(read.is_some() || is_delta(frame), "{} loses {frame}", family.name);
            assert!(read.is_none_or(|read| read == *published), "{} misreads {frame}", family.name);
        }
        let reads_all = lost == 0;
        assert_eq!(reads_all, readers.contains(&family.name), "{}: {lost} lost, {style:?}", family.name);
    }
}

// --- published events and received frames -----------------------------------------

#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    name: String,
    data: String,
}

/// Two event names, and a special case every few events. All end alike: a delta
/// that copies the end of its base exposes a client that has left a marker there.
fn published(number: usize) -> Published {
    let name = if number.is_multiple_of(4) { "correction" } else { "price" };
    let asset = ["BTC", "ETH", "ADA"][number % 3];
    let note = "the same in each of them ".repeat(8);
    let data = match number % 20 {
        // Stripping would damage it: unmarked, and never a base.
        7 => json!({ "A": 1, "__delta_seq": 5, "asset": asset, "note": note, "price": number }),
        // One without a key, and one with a key that no marker can carry.
        11 => json!({ "note": note, "price": number, "unit": "dollars for each" }),
        13 => json!({ "asset": "A\"B", "note": note, "price": number, "unit": "dollars for each" }),
        _ => json!({ "asset": asset, "note": note, "price": number, "unit": "dollars for each" }),
    };
    Published { name: name.into(), data: data.to_string() }
}

/// Sixty events, each with its frame.
async fn record(style: Style) -> Vec<(Published, String)> {
    let mut app = AppSpec::new("1");
    if style.keyed {
        app = app.set("channel_delta_compression", r#"{ prices = { conflation_key = "asset" } }"#);
    }
    let markers = style.markers.map(|markers| format!("markers = \"{markers}\"\n")).unwrap_or_default();
    let server = Server::builder().app(app).config(&format!("[delta_compression]\n{markers}")).start().await;
    let mut browser = server.browser("key1").await;
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
    browser.find_event("pusher:delta_compression_enabled").await;
    browser.subscribe("prices").await;
    let caller = server.caller("1");
    let mut recording = Vec::new();
    for number in 0..60 {
        let event = published(number);
        let mut body = json!({ "name": event.name, "channel": "prices", "data": event.data });
        if number % 20 == 17 {
            body["delta"] = false.into();
        }
        assert_eq!(caller.post_events(body).await.status, 200);
        let mut frame = browser.next().await;
        // Clears the bases of a new subscriber, which has none yet.
        while frame.event == "pusher:delta_cache_sync" {
            frame = browser.next().await;
        }
        recording.push((event, frame.text));
    }
    recording
}

fn is_delta(frame: &str) -> bool {
    frame.starts_with(r#"{"event":"pusher:delta","#)
}

// --- the families -------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    /// From a full event to the base that it becomes.
    strip: fn(&str) -> String,
    /// The base that the family picks among those under a delta's key.
    select: for<'a> fn(held: &'a [Base], key: &str, base_index: u64) -> Option<&'a Base>,
    /// One base per channel, whatever the key.
    ignores_keys: bool,
    /// Loses every delta: its checksum of the output is not truncated to 32 bits,
    /// and where that has no effect, it cannot build the event (protocol.md 3.6).
    loses_deltas: bool,
}

const FAMILIES: [Family; 6] = [
    Family {
        name: "sockudo-js",
        strip,
        select: by_sequence_under_a_key,
        ignores_keys: false,
        loses_deltas: false,
    },
    Family {
        name: "Swift",
        strip: strip_trailing,
        select: by_sequence,
        ignores_keys: false,
        loses_deltas: false,
    },
    Family { name: "Flutter", strip, select: by_sequence, ignores_keys: false, loses_deltas: false },
    Family {
        name: "Kotlin",
        strip: strip_except_quote,
        select: by_sequence,
        ignores_keys: false,
        loses_deltas: false,
    },
    Family { name: ".NET", strip: str::to_owned, select: by_index, ignores_keys: false, loses_deltas: false },
    Family {
        name: "sockudo-python",
        strip: strip_names_only,
        select: newest,
        ignores_keys: true,
        loses_deltas: true,
    },
];

#[derive(Debug)]
struct Base {
    seq: u64,
    text: String,
}

fn by_sequence<'a>(held: &'a [Base], _: &str, base_index: u64) -> Option<&'a Base> {
    held.iter().find(|base| base.seq == base_index)
}

/// Without a key there is only one base, whatever its number.
fn by_sequence_under_a_key<'a>(held: &'a [Base], key: &str, base_index: u64) -> Option<&'a Base> {
    if key.is_empty() { held.last() } else { by_sequence(held, key, base_index) }
}

/// Uses the number of the base as a list index.
fn by_index<'a>(held: &'a [Base], _: &str, base_index: u64) -> Option<&'a Base> {
    usize::try_from(base_index).ok().and_then(|at| held.get(at)).or(held.last())
}

fn newest<'a>(held: &'a [Base], _: &str, _: u64) -> Option<&'a Base> {
    held.last()
}

/// `,"__delta_seq":\d+` and `,"__conflation_key":"[^"]*"`
fn strip_trailing(text: &str) -> String {
    let text = cut(text, r#","__delta_seq":"#, "", digits);
    cut(&text, r#","__conflation_key":""#, "\"", |rest| rest.find('"'))
}

/// The same without the key's closing quote.
fn strip_except_quote(text: &str) -> String {
    let text = cut(text, r#","__delta_seq":"#, "", digits);
    cut(&text, r#","__conflation_key":""#, "", |rest| rest.find('"'))
}

fn strip_names_only(text: &str) -> String {
    text.replace(r#","__delta_seq""#, "").replace(r#","__conflation_key""#, "")
}

fn digits(rest: &str) -> Option<usize> {
    Some(rest.bytes().take_while(u8::is_ascii_digit).count()).filter(|count| *count > 0)
}

// --- handling of a frame by a client ------------------------------------------------

struct Decoder {
    family: Family,
    /// By conflation key; empty where there is none.
    bases: HashMap<String, Vec<Base>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Decoder {
    fn new(family: Family) -> Decoder {
        Decoder { family, bases: HashMap::new() }
    }

    /// The event as the application receives it; None where it is lost.
    fn read(&mut self, frame: &str) -> Option<Published> {
        if is_delta(frame) {
            return self.decode(frame);
        }
        let envelope: Value = serde_json::from_str(frame).expect("a frame is JSON");
        let either = |names: [&str; 2]| names.iter().find_map(|name| envelope.get(*name)).cloned();
        if let Some(seq) = either(["__delta_seq", "sequence"]).and_then(|seq| seq.as_u64()) {
            let key = either(["__conflation_key", "conflation_key"]);
            self.keep(key.as_ref(), Base { seq, text: (self.family.strip)(frame) });
        }
        Some(event(frame))
    }

    fn decode(&mut self, frame: &str) -> Option<Published> {
        use base64::Engine;
        let frame: Value = serde_json::from_str(frame).expect("a frame is JSON");
        let delta = &frame["data"];
        let key = delta.get("conflation_key");
        let chain = self.chain(key);
        let held = self.bases.get(&chain)?;
        let base = (self.family.select)(held, &chain, delta["base_index"].as_u64()?)?;
        let patch = base64::prelude::BASE64_STANDARD.decode(delta["delta"].as_str()?).ok()?;
        let text = fossil::decode(base.text.as_bytes(), &patch, 1 << 20).ok();
        let text = text.filter(|_| !self.family.loses_deltas)?;
        let text = String::from_utf8(text).ok()?;
        let read = Published { name: delta["event"].as_str()?.to_owned(), ..event(&text) };
        self.keep(key, Base { seq: delta["seq"].as_u64()?, text });
        Some(read)
    }

    fn keep(&mut self, key: Option<&Value>, base: Base) {
        self.bases.entry(self.chain(key)).or_default().push(base);
    }

    fn chain(&self, key: Option<&Value>) -> String {
        let key = key.and_then(Value::as_str).filter(|_| !self.family.ignores_keys);
        key.unwrap_or_default().to_owned()
    }
}

/// Data as published: the contents of a string, or the text of anything else.
fn event(text: &str) -> Published {
    let Envelope { event, data } = serde_json::from_str(text).expect("an envelope is JSON");
    let data = serde_json::from_str::<String>(data.get()).unwrap_or_else(|_| data.get().to_owned());
    Published { name: event, data }
}

/// The full event of protocol.md 3.3, and the base that each family makes of it.
#[test]
fn client_families_strip_markers_in_their_own_way() {
    let base = r#"{"event":"price","channel":"m","data":{"asset":"BTC","p":1}"#;
    let marked = format!(r#"{base},"__delta_seq":84}}"#);
    let keyed = format!(r#"{base},"__delta_seq":84,"__conflation_key":"BTC"}}"#);
    let plain = format!(r#"{base},"sequence":84,"conflation_key":"BTC"}}"#);
    for (family, of_marked, of_keyed) in [
        ("sockudo-js", "}", "}"),
        ("Swift", "}", "}"),
        ("Flutter", "}", "}"),
        ("Kotlin", "}", "\"}"),
        (".NET", r#","__delta_seq":84}"#, r#","__delta_seq":84,"__conflation_key":"BTC"}"#),
        ("sockudo-python", ":84}", r#":84:"BTC"}"#),
    ] {
        let strip = FAMILIES.iter().find(|it| it.name == family).expect("a family").strip;
        assert_eq!(strip(&marked), format!("{base}{of_marked}"), "{family}");
        assert_eq!(strip(&keyed), format!("{base}{of_keyed}"), "{family}");
        assert_eq!(strip(&plain), plain, "{family}");
    }
}
