//! In which dialect a conversation is held (protocol.md 2.1). The files have the
//! names of Pusher's; whoever connects with protocol 2 is spoken to in Sockudo's,
//! may speak in either, and finds no other difference.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// As the file has it.
    Written,
    /// Protocol 2 in place of 7, and Sockudo's names both ways.
    Sockudo,
    /// Protocol 2, by clients that keep to Pusher's names.
    Crossed,
}

impl Voice {
    /// Where a socket connects to.
    pub fn path(self, path: &str) -> String {
        if self == Voice::Written {
            return path.to_owned();
        }
        let pairs = path.split('&').map(|pair| match pair.strip_suffix("protocol=7") {
            Some(before) => format!("{before}protocol=2"),
            None => pair.to_owned(),
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// What a socket says that has connected to `path`.
    pub fn said(self, path: &str, text: &str) -> String {
        match self {
            Voice::Sockudo if is_sockudo(path) => rename(&["\"event\":\""], text),
            _ => text.to_owned(),
        }
    }

    /// What comes to such a socket. A name between backticks is the client's own
    /// word, given back to it.
    pub fn heard(self, path: &str, text: &str) -> String {
        match self {
            Voice::Sockudo if is_sockudo(path) => rename(&["\"event\":\"", "\"message\":\"`"], text),
            Voice::Crossed if is_sockudo(path) => rename(&["\"event\":\""], text),
            _ => text.to_owned(),
        }
    }
}

/// Whether the server speaks Sockudo's dialect to a socket with this path.
pub fn is_sockudo(path: &str) -> bool {
    path.split(['?', '&']).any(|pair| pair == "protocol=2")
}

/// Behind each of these, what is Pusher's becomes Sockudo's. No conversation has
/// an event of an application's that is called like one of ours.
fn rename(behind: &[&str], text: &str) -> String {
    behind.iter().fold(text.to_owned(), |text, before| {
        let (pusher, sockudo) = (format!("{before}pusher"), format!("{before}sockudo"));
        let text = text.replace(&format!("{pusher}:"), &format!("{sockudo}:"));
        text.replace(&format!("{pusher}_internal:"), &format!("{sockudo}_internal:"))
    })
}

#[test]
fn names_follow_the_protocol() {
    let (seven, two) = ("/app/key1?protocol=7&client=js", "/app/key1?protocol=2&client=js");
    for (path, expected) in
        [(seven, two), ("/app/key1?a&protocol=7", "/app/key1?a&protocol=2"), ("/app/key1?protocol=7.0", "")]
    {
        assert_eq!(Voice::Written.path(path), path);
        assert_eq!(Voice::Sockudo.path(path), if expected.is_empty() { path } else { expected });
    }
    let ping = r#"{"event":"pusher:ping","data":"\"event\":\"pusher:x"}"#;
    assert_eq!(Voice::Sockudo.said(two, ping), ping.replacen("pusher", "sockudo", 1));
    assert_eq!(Voice::Sockudo.said(seven, ping), ping);
    assert_eq!(Voice::Crossed.said(two, ping), ping);
    let error = r#"{"data":{"message":"`pusher:x` is none"},"event":"pusher_internal:error"}"#;
    assert_eq!(Voice::Sockudo.heard(two, error), error.replace("pusher", "sockudo"));
    assert_eq!(Voice::Crossed.heard(two, error), error.replace("pusher_", "sockudo_"));
    assert_eq!(Voice::Written.heard(two, error), error);
}
