//! What our own JSON code adds to serde_json: a bound on nesting that is checked
//! before anything recurses, and strings written straight into a frame.

/// Whether `text` nests arrays and objects at most `depth_max` deep. Linear, no
/// recursion, no allocation; says nothing about the text being valid JSON.
pub fn depth_within(text: &[u8], depth_max: usize) -> bool {
    // Most texts have fewer brackets than that, and counting them is far faster.
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

/// Appends `text` (UTF-8) as a JSON string with its quotes, escaping only what
/// JSON demands, exactly as serde_json does.
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
        fn strings_are_written_as_serde_writes_them(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, text.as_bytes());
            prop_assert_eq!(String::from_utf8(out).expect("escapes are ASCII"),
                serde_json::to_string(&text).expect("a string is JSON"));
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
    fn only_whole_objects_and_arrays_are_containers() {
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
