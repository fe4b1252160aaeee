//! Errors of Redis: the codes of its replies, the codes that scripts declare, and the failures of
//! the client library.

use fred::prelude::{Error, ErrorKind};

use crate::backend::BackendError;

/// An error that a script raises. The scripts that raise it declare its code in their headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScriptError {
    /// The stored app has changed since it was read.
    Changed,
    /// An app with this id is stored.
    Exists,
    /// Another stored app has this key.
    KeyTaken,
    /// The lease of the node does not exist.
    Swept,
    /// An earlier attempt may have been applied.
    Unknown,
}

/// Why a call of a script has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    Script(ScriptError),
    Backend(BackendError),
}

impl ScriptError {
    /// Parses the code at the beginning of an error reply.
    fn parse(code: &str) -> Option<ScriptError> {
        Some(match code {
            "CHANGED" => ScriptError::Changed,
            "EXISTS" => ScriptError::Exists,
            "KEY_TAKEN" => ScriptError::KeyTaken,
            "SWEPT" => ScriptError::Swept,
            "UNKNOWN" => ScriptError::Unknown,
            _ => return None,
        })
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> CallError {
        match reply_code(&error).and_then(ScriptError::parse) {
            Some(error) => CallError::Script(error),
            None => CallError::Backend(error.into()),
        }
    }
}

impl From<CallError> for BackendError {
    fn from(error: CallError) -> BackendError {
        match error {
            CallError::Script(ScriptError::Unknown) => BackendError::OutcomeUnknown,
            CallError::Script(error) => BackendError::Refused(format!("{error:?}")),
            CallError::Backend(error) => error,
        }
    }
}

impl From<Error> for BackendError {
    /// Maps an error of fred to the outcome of its command: not executed, or unknown.
    fn from(error: Error) -> BackendError {
        match (error.kind(), reply_code(&error)) {
            (_, Some("OOM")) => BackendError::OutOfMemory,
            (_, Some("LOADING" | "READONLY" | "MASTERDOWN" | "BUSY" | "NOREPLICAS"))
            | (ErrorKind::Backpressure, _) => BackendError::Unavailable,
            // fred uses the kind of error replies also for its own errors, before and after it has
            // written the command.
            (ErrorKind::Unknown, None)
            | (ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Routing, _) => {
                BackendError::OutcomeUnknown
            }
            (ErrorKind::Parse, _) => BackendError::Unreadable(format!("a reply of Redis: {error}")),
            _ => BackendError::Refused(error.to_string()),
        }
    }
}

/// Maps the error of a read, which can be repeated: its outcome is never unknown.
pub(super) fn read_error(error: impl Into<BackendError>) -> BackendError {
    match error.into() {
        BackendError::OutcomeUnknown => BackendError::Unavailable,
        error => error,
    }
}

/// The code of an error reply of Redis: the first word, in capitals. Errors of fred have none.
pub(super) fn reply_code(error: &Error) -> Option<&str> {
    let code = error.details().split(' ').next()?;
    let is_code = code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_code.then_some(code)
}

#[cfg(test)]
pub(super) mod tests {
    use fred::interfaces::{ClientLike, KeysInterface};
    use fred::prelude::Client;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::redis::{build, scripts, standalone};

    /// A client, and its connection at a server that replies to the handshake.
    pub(in crate::backend::redis) async fn connect() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("a bound listener"));
        let client = build(standalone(&url).expect("a URL"), 8).expect("a client");
        let accept = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            // HELLO, CLIENT ID, INFO.
            for reply in ["%1\r\n+server\r\n+redis\r\n", ":1\r\n", "+\r\n"] {
                let _ = stream.read(&mut [0; 256]).await.expect("a command");
                stream.write_all(reply.as_bytes()).await.expect("an open connection");
            }
            stream
        };
        let (stream, connected) = tokio::join!(accept, client.init());
        connected.expect("a connection");
        (client, stream)
    }

    #[tokio::test]
    async fn outcome_is_unknown_when_connection_closes_after_command() {
        let (client, mut stream) = connect().await;
        let close = async move {
            let _ = stream.read(&mut [0; 256]).await.expect("a command");
        };
        let client = client.with_options(&scripts::once());
        let (result, ()) = tokio::join!(client.get::<(), _>("key"), close);
        assert_eq!(BackendError::from(result.expect_err("no reply")), BackendError::OutcomeUnknown);
    }

    #[test]
    fn outcome_is_unknown_after_messages_of_fred() {
        for text in ["Failed to route command.", "Too many failed write attempts."] {
            let error = Error::new(ErrorKind::Unknown, text);
            assert_eq!(BackendError::from(error), BackendError::OutcomeUnknown, "{text}");
        }
    }

    #[test]
    fn error_replies_are_mapped_by_their_code() {
        let reply = |text: &'static str| BackendError::from(Error::new(ErrorKind::Unknown, text));
        assert_eq!(
            reply("OOM command not allowed when used memory > 'maxmemory'."),
            BackendError::OutOfMemory
        );
        assert_eq!(reply("LOADING Redis is loading the dataset in memory"), BackendError::Unavailable);
        assert!(matches!(reply("ERR unknown command 'foo'"), BackendError::Refused(_)));
        assert!(matches!(reply("OOMPH"), BackendError::Refused(_)));
    }

    #[test]
    fn declared_codes_are_parsed_as_whole_words() {
        let call = |text: &'static str| CallError::from(Error::new(ErrorKind::Unknown, text));
        let swept = call("SWEPT the lease of this node is gone");
        assert_eq!(swept, CallError::Script(ScriptError::Swept));
        for text in ["SWEPTAWAY", "ERR 'SWEPT'", "Swept"] {
            assert!(matches!(call(text), CallError::Backend(_)), "{text}");
        }
    }
}
