//! Replays of transcripts with another event prefix (protocol.md 2.1). The files contain
//! Pusher's names. A client that connects with protocol 2 receives Sockudo's names, may send
//! either, and finds no other difference.

/// The event prefixes of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixMode {
    /// As written in the file.
    Written,
    /// Protocol 2 instead of 7, and Sockudo's names in both directions.
    Sockudo,
    /// Protocol 2, and clients that send Pusher's names.
    Crossed,
}

impl PrefixMode {
    /// The path of a handshake, with the protocol version of this mode.
    pub fn path(self, path: &str) -> String {
        if self == PrefixMode::Written {
            return path.to_owned();
        }
        let pairs = path.split('&').map(|pair| match pair.strip_suffix("protocol=7") {
            Some(before) => format!("{before}protocol=2"),
            None => pair.to_owned(),
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// A message as sent by a socket that has connected to `path`.
    pub fn rename_sent(self, path: &str, text: &str) -> String {
        match self {
            PrefixMode::Sockudo if is_sockudo(path) => rename(&["\"event\":\""], text),
            _ => text.to_owned(),
        }
    }

    /// A message as expected by such a socket. An error repeats the client's own event name
    /// between backticks.
    pub fn rename_expected(self, path: &str, text: &str) -> String {
        match self {
            PrefixMode::Sockudo if is_sockudo(path) => rename(&["\"event\":\"", "\"message\":\"`"], text),
            PrefixMode::Crossed if is_sockudo(path) => rename(&["\"event\":\""], text),
            _ => text.to_owned(),
        }
    }
}

/// Whether a connection with this path has Sockudo's event prefix.
pub fn is_sockudo(path: &str) -> bool {
    path.split(['?', '&']).any(|pair| pair == "protocol=2")
}

/// Replaces Pusher's event prefix by Sockudo's after each of these texts. No transcript contains
/// a published event with the name of a protocol event.
fn rename(after: &[&str], text: &str) -> String {
    after.iter().fold(text.to_owned(), |text, before| {
        let (pusher, sockudo) = (format!("{before}pusher"), format!("{before}sockudo"));
        let text = text.replace(&format!("{pusher}:"), &format!("{sockudo}:"));
        text.replace(&format!("{pusher}_internal:"), &format!("{sockudo}_internal:"))
    })
}

#[test]
fn event_prefix_follows_the_protocol_version() {
    let (seven, two) = ("/app/key1?protocol=7&client=js", "/app/key1?protocol=2&client=js");
    for (path, expected) in
        [(seven, two), ("/app/key1?a&protocol=7", "/app/key1?a&protocol=2"), ("/app/key1?protocol=7.0", "")]
    {
        assert_eq!(PrefixMode::Written.path(path), path);
        assert_eq!(PrefixMode::Sockudo.path(path), if expected.is_empty() { path } else { expected });
    }
    let ping = r#"{"event":"pusher:ping","data":"\"event\":\"pusher:x"}"#;
    assert_eq!(PrefixMode::Sockudo.rename_sent(two, ping), ping.replacen("pusher", "sockudo", 1));
    assert_eq!(PrefixMode::Sockudo.rename_sent(seven, ping), ping);
    assert_eq!(PrefixMode::Crossed.rename_sent(two, ping), ping);
    let error = r#"{"data":{"message":"`pusher:x` is none"},"event":"pusher_internal:error"}"#;
    assert_eq!(PrefixMode::Sockudo.rename_expected(two, error), error.replace("pusher", "sockudo"));
    assert_eq!(PrefixMode::Crossed.rename_expected(two, error), error.replace("pusher_", "sockudo_"));
    assert_eq!(PrefixMode::Written.rename_expected(two, error), error);
}
