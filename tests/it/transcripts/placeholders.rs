//! Placeholders between `<` and `>` in a transcript: names for values that differ in each run,
//! and short forms of long texts.

use std::collections::BTreeMap;

use fanfare::app::Secret;
use fanfare::auth;
use serde_json::Value;

/// Matches any digits: a value that varies and needs no name, such as a time.
const NUMBER: &str = "number";
/// Names of resume tokens begin with it: `token0`, `token1`.
const TOKEN: &str = "token";

/// The values of the placeholders so far.
#[derive(Default, Clone)]
pub struct Placeholders {
    /// Socket ids by the names of their sockets, and received numbers and resume tokens by name.
    values: BTreeMap<String, String>,
    /// The app keys of the sockets, by name. The secret of `key7` is `secret7`.
    keys: BTreeMap<String, String>,
}

/// A piece of an expected text.
enum Piece {
    Exactly(String),
    /// Digits, or a resume token.
    Value {
        name: String,
    },
}

impl Placeholders {
    pub fn on_connect(&mut self, name: &str, path: &str) {
        let key = path.rsplit('/').next().and_then(|end| end.split('?').next()).unwrap_or_default();
        self.keys.insert(name.into(), key.into());
        self.values.remove(name);
    }

    /// Stores the socket id in the first frame of a socket.
    pub fn on_received(&mut self, name: &str, text: &str) {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        if frame["event"].as_str().is_some_and(|event| event.ends_with(":connection_established")) {
            let data: Value =
                serde_json::from_str(frame["data"].as_str().unwrap_or_default()).unwrap_or_default();
            self.values.insert(name.into(), data["socket_id"].as_str().unwrap_or_default().into());
        }
    }

    /// The text with all placeholders replaced by their values. Fails on one without a value.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        for piece in self.pieces(text)? {
            match piece {
                Piece::Exactly(text) => out.push_str(&text),
                Piece::Value { name } => return Err(format!("<{name}> has no value yet")),
            }
        }
        Ok(out)
    }

    /// Compares `got` with `expected`, byte for byte. If they match, stores the values of new
    /// names.
    pub fn matches(&mut self, expected: &str, got: &str) -> Result<(), String> {
        let mut updated = self.clone();
        let mut at = 0;
        for piece in self.pieces(expected)? {
            let rest = &got[at..];
            let is_match = match piece {
                Piece::Exactly(text) => {
                    let same = common(rest, &text);
                    at += same;
                    same == text.len()
                }
                Piece::Value { name } => {
                    let value = value_of(&name, rest).to_owned();
                    at += value.len();
                    let is_present = !value.is_empty();
                    if name != NUMBER {
                        updated.values.insert(name, value);
                    }
                    is_present
                }
            };
            if !is_match {
                return Err(differs(got, at));
            }
        }
        if at < got.len() {
            return Err(differs(got, at));
        }
        *self = updated;
        Ok(())
    }

    /// The received text as a recording writes it: with placeholders instead of their values.
    pub fn generalize(&mut self, got: &str) -> String {
        let mut text = got.to_owned();
        for (name, value) in self.values.iter().filter(|(_, value)| value.contains('.')) {
            text = text.replace(value.as_str(), &format!("<{name}>"));
        }
        if let Some((before, after)) = text.clone().split_once(r#"\"token\":\""#) {
            let token = value_of(TOKEN, after);
            let tokens = self.values.keys().filter(|name| name.starts_with(TOKEN)).count();
            let name = format!("{TOKEN}{tokens}");
            let after = &after[token.len()..];
            text = format!(r#"{before}\"token\":\"<{name}>{after}"#);
            self.values.insert(name, token.to_owned());
        }
        for member in ["\"__delta_seq\":", "\"__seq\":", "\"seq\":", r#"\"seq\":"#, "\"base_index\":"] {
            if let Some((before, after)) = text.clone().split_once(member) {
                let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
                text = format!("{before}{member}{}{}", self.name_sequence(&digits), &after[digits.len()..]);
            }
        }
        shorten(&hide_times(&text))
    }

    fn name_sequence(&mut self, digits: &str) -> String {
        let first = self.values.entry("seq".into()).or_insert_with(|| digits.into());
        let number = |digits: &str| digits.parse::<u64>().unwrap_or_default();
        match number(digits).wrapping_sub(number(first)) {
            0 => "<seq>".into(),
            offset => format!("<seq+{offset}>"),
        }
    }

    fn pieces(&self, text: &str) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            let end = placeholder_end(after).ok_or_else(|| format!("a < without its > in {text}"))?;
            pieces.push(Piece::Exactly(before.into()));
            pieces.push(self.placeholder(&after[..end])?);
            rest = &after[end + 1..];
        }
        pieces.push(Piece::Exactly(rest.into()));
        Ok(pieces)
    }

    fn placeholder(&self, text: &str) -> Result<Piece, String> {
        let (function, rest) = text.split_once(' ').unwrap_or((text, ""));
        if rest.is_empty() {
            return self.name(text);
        }
        let rest = self.expand(rest)?;
        let (first, more) = rest.split_once(' ').unwrap_or((&rest, ""));
        let text = match function {
            // <auth ann presence-room {"user_id":"1"}>
            "auth" => {
                let (channel, data) = more.split_once(' ').map_or((more, None), |(c, data)| (c, Some(data)));
                self.sign(first, |socket| auth::subscription_text(socket, channel, data))?
            }
            // <signin ann {"id":"1"}>
            "signin" => self.sign(first, |socket| auth::signin_text(socket, more))?,
            // <string {"id":"1"}>: as a JSON string
            "string" => Value::from(rest.as_str()).to_string(),
            // <fill 201 x>
            "fill" => more.repeat(count(first)?),
            // <list 3 "c#">: "c0","c1","c2"
            "list" => {
                (0..count(first)?).map(|at| more.replace('#', &at.to_string())).collect::<Vec<_>>().join(",")
            }
            _ => return Err(format!("unknown placeholder <{function} …>")),
        };
        Ok(Piece::Exactly(text))
    }

    /// `<ann>`, `<seq>`, `<seq+1>`
    fn name(&self, name: &str) -> Result<Piece, String> {
        let (base, offset) = name.split_once('+').unwrap_or((name, "0"));
        match self.values.get(base) {
            None => Ok(Piece::Value { name: name.into() }),
            Some(value) if base == name => Ok(Piece::Exactly(value.clone())),
            Some(value) => {
                let number = value.parse::<usize>().map_err(|_| format!("<{base}> is not a number"))?;
                Ok(Piece::Exactly((number + count(offset)?).to_string()))
            }
        }
    }

    /// `key:signature`, as from the auth endpoint of the socket's app.
    fn sign(&self, name: &str, text: impl Fn(&str) -> String) -> Result<String, String> {
        let unknown = || format!("{name} is not connected");
        let socket = self.values.get(name).ok_or_else(unknown)?;
        let key = self.keys.get(name).ok_or_else(unknown)?;
        let secret = Secret::new(key.replace("key", "secret"));
        Ok(format!("{key}:{}", auth::sign(&secret, text(socket))))
    }
}

/// The value of the placeholder with this name, at the start of the text.
fn value_of<'a>(name: &str, text: &'a str) -> &'a str {
    let is_part = |c: char| match name.starts_with(TOKEN) {
        true => c.is_ascii_alphanumeric() || "._-".contains(c),
        false => c.is_ascii_digit(),
    };
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

fn count(digits: &str) -> Result<usize, String> {
    digits.parse().map_err(|_| format!("{digits:?} is not a number"))
}

/// The index of the closing `>`. Placeholders may be nested: `<auth ann private-<fill 200 x>>`.
fn placeholder_end(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        (depth == 0).then_some(at)
    })
}

/// Replaces times: they are the only numbers of ten or more digits that the server sends.
fn hide_times(text: &str) -> String {
    let is_digit = |c: &char| c.is_ascii_digit();
    runs(text, |a, b| is_digit(&a) && is_digit(&b))
        .map(|run| if run.len() >= 10 && run.starts_with(|c| is_digit(&c)) { "<number>" } else { run })
        .collect()
}

/// Replaces 40 or more equal characters by `<fill N x>`.
fn shorten(text: &str) -> String {
    let short = |run: &str| match run.chars().next() {
        Some(c) if run.len() >= 40 => format!("<fill {} {c}>", run.chars().count()),
        _ => run.to_owned(),
    };
    runs(text, |a, b| a == b).map(short).collect()
}

/// Splits the text between all neighbouring characters that are not in the `same_run`.
fn runs(text: &str, same_run: impl Fn(char, char) -> bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut chars = rest.char_indices().peekable();
        let end = loop {
            let (at, c) = chars.next()?;
            match chars.peek() {
                Some((_, next)) if same_run(c, *next) => {}
                _ => break at + c.len_utf8(),
            }
        };
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

/// The length of the common prefix, in bytes.
fn common(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

fn differs(got: &str, at: usize) -> String {
    let rest: String = got[at..].chars().take(60).collect();
    format!("differs from byte {at} on: {rest:?}")
}

#[test]
fn expected_text_is_compared_byte_for_byte() {
    let mut placeholders = Placeholders::default();
    let greeting = r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"12.34\"}"}"#;
    placeholders.on_connect("ann", "/app/key1?protocol=7");
    placeholders.on_received("ann", greeting);
    assert_eq!(placeholders.generalize(greeting), greeting.replace("12.34", "<ann>"));
    for (expected, got, is_match) in [
        (r#"{"a":1}"#, r#"{"a":1}"#, true),
        (r#"{"a":1}"#, r#"{"a": 1}"#, false),
        (r#"{"a":1}"#, r#"{"a":1} "#, false),
        (r#"{"a":1}"#, r#"{"a":1"#, false),
        ("<ann>:private-a", "12.34:private-a", true),
        ("<ann>:private-a", "12.35:private-a", false),
        ("at <number>, not <number>", "at 7, not 1234567890", true),
        ("at <number>", "at noon", false),
        ("<fill 3 x>", "xxx", true),
        ("<fill 3 x>", "xx", false),
        // The first <seq> matches any number; later ones must have its value.
        (r#""seq":<seq>"#, r#""seq":77"#, true),
        (r#""seq":<seq+1>,"base_index":<seq>"#, r#""seq":78,"base_index":77"#, true),
        (r#""seq":<seq+1>"#, r#""seq":77"#, false),
        (r#""token":"<token0>""#, r#""token":"1.77.A-_z""#, true),
        (r#""token":"<token0>""#, r#""token":"1.77.A-_y""#, false),
    ] {
        assert_eq!(placeholders.matches(expected, got).is_ok(), is_match, "{expected} and {got}");
    }
    let error = placeholders.matches("one two three", "one two four").unwrap_err();
    assert_eq!(error, "differs from byte 8 on: \"four\"");
}

#[test]
fn sent_text_has_its_placeholders_expanded() {
    let mut placeholders = Placeholders::default();
    placeholders.on_connect("ann", "/app/key1");
    placeholders
        .on_received("ann", r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\"}"}"#);
    let secret = Secret::new("secret1");
    let signed = |text: &str| format!("key1:{}", auth::sign(&secret, text));
    for (text, expanded) in [
        ("<ann>", "1.2".to_owned()),
        ("<auth ann private-a>", signed("1.2:private-a")),
        (r#"<auth ann presence-a { "user_id":1 }>"#, signed(r#"1.2:presence-a:{ "user_id":1 }"#)),
        (r#"<signin ann {"id":"1"}>"#, signed(r#"1.2::user::{"id":"1"}"#)),
        (r#"<string {"id":"<fill 3 u>"}>"#, r#""{\"id\":\"uuu\"}""#.to_owned()),
        (r#"[<list 3 "c#">]"#, r#"["c0","c1","c2"]"#.to_owned()),
    ] {
        assert_eq!(placeholders.expand(text), Ok(expanded), "{text}");
    }
    for invalid in ["<bob>", "<nonsense 1>", "<auth bob private-a>", "<fill x y>", "a < b"] {
        assert!(placeholders.expand(invalid).is_err(), "{invalid}");
    }
}
