//! Additions to serde_json: a limit of nesting that is checked before anything recurses, errors
//! for escapes that are half of a surrogate pair, and strings written directly into a frame.

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Whether `text` nests arrays and objects at most `depth_max` levels deep. Linear time, without
/// recursion or allocation. Does not check that the text is valid JSON.
pub fn depth_within(text: &[u8], depth_max: usize) -> bool {
    // Most texts have fewer brackets than `depth_max`, and counting them is much faster.
    if text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= depth_max {
        return true;
    }
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    true
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// U+FEFF, which some programs write before UTF-8 text. It is not part of the JSON.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why a JSON value cannot be decoded as the requested type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The value has another type.
    Type,
    /// A string in the value has this escape, which is half of a surrogate pair.
    LoneSurrogate(String),
}

/// Decodes a value of valid JSON syntax.
pub fn decode<'de, T: Deserialize<'de>>(raw: &'de RawValue) -> Result<T, DecodeError> {
    serde_json::from_str(raw.get()).map_err(|error| match lone_surrogate(raw.get().as_bytes()) {
        Some(escape) if !error.is_data() => DecodeError::LoneSurrogate(escape),
        _ => DecodeError::Type,
    })
}

/// The length of JSON text in bytes, with each escape counted as its decoded character in UTF-8
/// (protocol.md 1.9).
pub fn decoded_len(text: &[u8]) -> usize {
    let saved = |escape: Escape| escape.len - escape.character.map_or(3, char::len_utf8);
    text.len() - escapes(text).map(saved).sum::<usize>()
}

fn lone_surrogate(text: &[u8]) -> Option<String> {
    let escape = escapes(text).find(|escape| escape.character.is_none())?;
    Some(String::from_utf8_lossy(&text[escape.at..escape.at + escape.len]).into_owned())
}

/// One escape of a JSON string.
struct Escape {
    /// Index of the backslash.
    at: usize,
    /// Length in bytes: 2, 6 with `\u`, or 12 for a surrogate pair.
    len: usize,
    /// `None` for half of a surrogate pair.
    character: Option<char>,
}

/// The escapes of valid JSON text, in order.
fn escapes(text: &[u8]) -> impl Iterator<Item = Escape> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let at = next + memchr(b'\\', text.get(next..)?)?;
        let (len, character) = match (code_unit(text, at), code_unit(text, at + 6)) {
            (None, _) => (2, text.get(at + 1).map(|byte| char::from(*byte))),
            (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
                (12, char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)))
            }
            (Some(unit), _) => (6, char::from_u32(unit)),
        };
        next = at + len;
        Some(Escape { at, len, character })
    })
}

/// The UTF-16 code unit of an escape `\uXXXX` at this index.
fn code_unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends `text` (UTF-8) as a quoted JSON string. Escapes only the characters that JSON
/// requires, exactly as serde_json does.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut written = 0;
    for (at, &byte) in text.iter().enumerate() {
        if !NEEDS_ESCAPE[byte as usize] {
            continue;
        }
        out.extend_from_slice(&text[written..at]);
        written = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[(control >> 4) as usize], HEX[(control & 15) as usize]]);
            }
        }
    }
    out.extend_from_slice(&text[written..]);
    out.push(b'"');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const NEEDS_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Whether `text` is one JSON object or array, complete and valid.
pub fn is_container(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'['))
        && depth_within(text, crate::limits::JSON_DEPTH_MAX)
        && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn write_string_equals_serde_json(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, text.as_bytes());
            prop_assert_eq!(String::from_utf8(out).expect("escapes are ASCII"),
                serde_json::to_string(&text).expect("a string is JSON"));
        }
    }

    #[test]
    fn lone_surrogate_error_contains_the_escape() {
        let decode = |text: &str| {
            let raw: &RawValue = serde_json::from_str(text).expect(text);
            super::decode::<String>(raw)
        };
        assert_eq!(decode(r#""\ud83d\ude00 \u00e9 \\ud83d""#), Ok("😀 é \\ud83d".to_owned()));
        for (text, escape) in [
            (r#""a\ud83d""#, r"\ud83d"),
            (r#""\uDE00""#, r"\uDE00"),
            (r#""\ud83d\u0041""#, r"\ud83d"),
            (r#""\ud83d\ude00\ud83d\ud83d""#, r"\ud83d"),
            (r#""\\\ud83dx""#, r"\ud83d"),
        ] {
            assert_eq!(decode(text), Err(DecodeError::LoneSurrogate(escape.to_owned())), "{text}");
        }
        assert_eq!(decode("7"), Err(DecodeError::Type));
        assert_eq!(decode(r#"["\ud83d"]"#), Err(DecodeError::Type));
    }

    proptest! {
        #[test]
        fn decoded_len_counts_decoded_characters(text in any::<String>()) {
            let escaped = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            prop_assert_eq!(decoded_len(escaped.as_bytes()), text.len());
            let json = serde_json::to_string(&text).expect("a string is JSON");
            prop_assert_eq!(decoded_len(json.as_bytes()), text.len() + 2);
        }

        #[test]
        fn decode_reports_surrogates_as_serde_does(units in prop::collection::vec(any::<u16>(), 0..8)) {
            let json = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            let json = format!("\"{json}\"");
            let raw: &RawValue = serde_json::from_str(&json).expect("the syntax is right");
            let is_refused = matches!(decode::<String>(raw), Err(DecodeError::LoneSurrogate(_)));
            prop_assert_eq!(is_refused, String::from_utf16(&units).is_err());
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (text, depth) in
            [("1", 0), ("[]", 1), (r#"{"a":[1,{"b":2}]}"#, 3), (r#"["[[[\"[["]"#, 1), ("][[", 2)]
        {
            assert!(depth_within(text.as_bytes(), depth), "{text}");
            assert!(depth == 0 || !depth_within(text.as_bytes(), depth - 1), "{text}");
        }
    }

    #[test]
    fn only_complete_objects_and_arrays_are_containers() {
        for (text, is) in [
            ("{}", true),
            (" [1] ", true),
            ("{", false),
            ("{}x", false),
            ("1", false),
            ("\"{}\"", false),
            ("", false),
        ] {
            assert_eq!(is_container(text.as_bytes()), is, "{text}");
        }
    }
}
