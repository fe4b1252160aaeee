//! Published payloads: of all sizes and shapes, mostly small.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// The tags `t` and `n`, and whether the event is a fence, which passes every
/// filter of this test.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tags {
    pub t: Option<u8>,
    pub n: Option<u8>,
    pub fence: bool,
}

impl Tags {
    pub fn random(rng: &mut StdRng) -> Tags {
        let mut one = |odds, max| rng.random_bool(odds).then(|| rng.random_range(0..max));
        Tags { t: one(0.7, 4), n: one(0.3, 100), fence: false }
    }

    /// As in a publish request.
    pub fn json(self) -> Option<Value> {
        let mut tags = serde_json::Map::new();
        tags.extend(self.t.map(|t| ("t".into(), t.to_string().into())));
        tags.extend(self.n.map(|n| ("n".into(), n.to_string().into())));
        tags.extend(self.fence.then(|| ("fence".into(), "1".into())));
        (!tags.is_empty()).then(|| tags.into())
    }
}

pub const FILTERS: usize = 6;

/// The subscription members for filter `number`.
pub fn filter(number: usize) -> Option<(&'static str, Value)> {
    let leaf = |key: &str, cmp: &str, val: &str| json!({ "key": key, "cmp": cmp, "val": val });
    let or = |node: Value| json!({ "op": "or", "nodes": [{ "key": "fence", "cmp": "ex" }, node] });
    Some(match number {
        0 => return None,
        1 => ("filter", or(leaf("t", "eq", "1"))),
        2 => ("tags_filter", leaf("t", "neq", "2")),
        3 => ("filter", or(json!({ "key": "t", "cmp": "in", "vals": ["0", "3"] }))),
        4 => (
            "tags_filter",
            or(json!({ "op": "and", "nodes": [leaf("n", "gte", "50"), leaf("n", "lt", "90")] })),
        ),
        _ => ("filter", or(json!({ "op": "not", "nodes": [{ "key": "t", "cmp": "ex" }] }))),
    })
}

/// The same filters, implemented without the server's code.
pub fn passes(filter: usize, tags: Tags) -> bool {
    tags.fence
        || match filter {
            0 => true,
            1 => tags.t == Some(1),
            2 => tags.t != Some(2),
            3 => matches!(tags.t, Some(0 | 3)),
            4 => tags.n.is_some_and(|n| (50..90).contains(&n)),
            _ => tags.t.is_none(),
        }
}

const NAMES: [&str; 5] = ["price", "tick", "état", "a\"b\\", "client"];

pub fn name(rng: &mut StdRng) -> &'static str {
    NAMES[rng.random_range(0..NAMES.len())]
}

/// Text that contains `id` where possible.
pub fn data(rng: &mut StdRng, id: u64, keyed: bool, random: bool) -> String {
    let what = rng.random_range(0..100);
    match what {
        0..2 => String::new(),
        2..4 => "identical".into(),
        4..7 => format!(r#"{{"symbol":"S1","same":"{}"}}"#, "=".repeat(120)),
        7..10 => format!("{id} 😀 \u{2028} é\u{0} \"\\/ plain {}", text(rng, 40)),
        10..12 => format!(r#"{{"id":{id},"__delta_seq":5,"text":"{}"}}"#, text(rng, 200)),
        12..13 => format!("{id} ,\"__conflation_key\":\"x\" __delta_seq"),
        13..15 => format!(r#"{{"id":{id},"broken":"{}"#, text(rng, 200)),
        15..18 => format!(r#"[{id}, 1.0 ,"\u00e9","{}"]"#, text(rng, 300)),
        18..20 => format!("{id}"),
        _ => object(rng, id, keyed, random),
    }
}

fn object(rng: &mut StdRng, id: u64, keyed: bool, random: bool) -> String {
    let length = match rng.random_range(0..100) {
        0..70 => rng.random_range(0..200),
        70..94 => rng.random_range(200..1_200),
        _ => rng.random_range(1_200..9_500),
    };
    let text = if random { noise(rng, length) } else { text(rng, length) };
    let key = if keyed { key(rng) } else { String::new() };
    let price = rng.random_range(0..100_000);
    format!(r#"{{"id":{id},{key}"price":{price}.50,"text":"{text}","unit":"€"}}"#)
}

/// The conflation key member: keys that make a chain and keys that do not.
fn key(rng: &mut StdRng) -> String {
    match rng.random_range(0..40) {
        0 => String::new(),
        1 => r#""symbol":"say \"hi\"","#.into(),
        2 => r#""symbol":"a\nb","#.into(),
        3 => format!(r#""symbol":"{}","#, "long".repeat(80)),
        4 => r#""symbol":null,"#.into(),
        5 => r#""symbol":"","#.into(),
        6 => format!(r#""symbol":{},"#, rng.random_range(0..3)),
        7 => r#""symbol":"€\u00e9","#.into(),
        8 => r#""symbol":"x__delta_seq","#.into(),
        _ => format!(r#""symbol":"S{}","#, rng.random_range(0..16)),
    }
}

/// The same words repeated, sometimes with a change.
fn text(rng: &mut StdRng, length: usize) -> String {
    let words = "The quick brown føx jumps over the lazy dog; größer als 日本語 😀 and so on. ";
    let mut text: String = words.chars().cycle().take(length * 2 / 3).collect();
    if rng.random_bool(0.5) {
        text.push_str(&rng.random_range(0..1_000_000).to_string());
    }
    text
}

fn noise(rng: &mut StdRng, length: usize) -> String {
    let mut noise = String::with_capacity(length + 16);
    while noise.len() < length {
        noise.push_str(&format!("{:016x}", rng.random::<u64>()));
    }
    noise
}
