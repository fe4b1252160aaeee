//! Redis's wire format, as far as the tests' own client and proxy need it.

/// A reply of Redis (RESP2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

impl Reply {
    /// The text of a text-like reply; numbers in digits.
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) | Reply::Error(text) => text.clone(),
            Reply::Integer(number) => number.to_string(),
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Array(items) => items.iter().map(Reply::text).collect::<Vec<_>>().join(" "),
            Reply::Nil => String::new(),
        }
    }

    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(number) => *number,
            other => panic!("an integer was expected, not {other:?}"),
        }
    }
}

/// A command as clients send it: an array of bulk strings.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// The first whole reply in `bytes` and its length.
pub fn reply(bytes: &[u8]) -> Option<(Reply, usize)> {
    let (line, mut at) = line(bytes)?;
    let rest = || String::from_utf8_lossy(&line[1..]).into_owned();
    let number = || rest().parse::<i64>().expect("redis sends numbers in digits");
    let reply = match line[0] {
        b'+' => Reply::Simple(rest()),
        b'-' => Reply::Error(rest()),
        b':' => Reply::Integer(number()),
        b'$' | b'*' if number() < 0 => Reply::Nil,
        b'$' => {
            let text = bytes.get(at..at + number() as usize)?.to_vec();
            at += text.len() + 2;
            Reply::Bulk(text)
        }
        b'*' => {
            let mut items = Vec::new();
            for _ in 0..number() {
                let (item, length) = self::reply(bytes.get(at..)?)?;
                at += length;
                items.push(item);
            }
            Reply::Array(items)
        }
        other => panic!("not a RESP2 reply: {:?}", char::from(other)),
    };
    (at <= bytes.len()).then_some((reply, at))
}

/// The length of the first complete message in `bytes`, in either direction and
/// either version of the protocol; `None` if it is incomplete.
pub fn message_length(bytes: &[u8]) -> Option<usize> {
    let (line, mut at) = line(bytes)?;
    let count = || std::str::from_utf8(line.get(1..)?).ok()?.parse::<i64>().ok();
    let items = match line.first()? {
        b'$' | b'!' | b'=' => {
            at += count().filter(|count| *count >= 0).map_or(0, |count| count as usize + 2);
            0
        }
        b'*' | b'~' | b'>' => count().unwrap_or(0),
        b'%' => count().unwrap_or(0) * 2,
        // An attribute belongs to the reply that follows it.
        b'|' => count().unwrap_or(0) * 2 + 1,
        _ => 0,
    };
    for _ in 0..items {
        at += message_length(bytes.get(at..)?)?;
    }
    (at <= bytes.len()).then_some(at)
}

/// The first line without its end, and where the next one begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

#[test]
fn resp_message_length_includes_nested_parts() {
    let whole: &[u8] = b">3\r\n$7\r\nmessage\r\n%1\r\n+a\r\n:1\r\n*2\r\n$-1\r\n_\r\n";
    assert_eq!(message_length(whole), Some(whole.len()));
    for end in 0..whole.len() {
        assert_eq!(message_length(&whole[..end]), None, "{end} bytes are incomplete");
    }
    let two = [whole, b"+OK\r\n"].concat();
    assert_eq!(message_length(&two), Some(whole.len()));
}

#[test]
fn resp_reply_is_parsed_only_when_complete() {
    let whole = b"*3\r\n:7\r\n$2\r\nab\r\n$-1\r\n";
    let expected = Reply::Array(vec![Reply::Integer(7), Reply::Bulk(b"ab".to_vec()), Reply::Nil]);
    assert_eq!(reply(whole), Some((expected, whole.len())));
    for end in 0..whole.len() {
        assert_eq!(reply(&whole[..end]), None, "{end} bytes are incomplete");
    }
}
