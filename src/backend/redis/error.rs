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
    /// The lease of the node does not exist, or its memberships were removed.
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
            // The node takes a new incarnation with the next renewal of its lease.
            CallError::Script(ScriptError::Swept) => BackendError::Unavailable,
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
            (_, Some("LOADING" | "READONLY" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" | "MISCONF"))
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

/// The code of an error reply of Redis. Errors of fred have none.
pub(super) fn reply_code(error: &Error) -> Option<&str> {
    let details = error.details();
    raised_in_script(details).and_then(first_code).or_else(|| first_code(details))
}

/// The first word, in capitals.
fn first_code(text: &str) -> Option<&str> {
    let code = text.split(' ').next()?;
    let is_code = code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_code.then_some(code)
}

/// The error of a command in a script. Redis 6.2 puts the script and the line before it, up to
/// twice: `ERR Error running script (call to f_…): @user_script:2: @user_script: 2: -OOM …`.
fn raised_in_script(details: &str) -> Option<&str> {
    let (_, mut error) = details.strip_prefix("ERR Error running script (call to ")?.split_once("): ")?;
    while let Some((_line, after)) = error.strip_prefix("@user_script:").and_then(|it| it.split_once(": ")) {
        error = after;
    }
    Some(error.strip_prefix('-').unwrap_or(error))
}

#[cfg(test)]
mod tests {
    use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
    use fred::prelude::Client;
    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::redis::{build, scripts, standalone};
    use crate::limits;

    /// A client, and its connection at a server that replies to the handshake.
    async fn connect() -> (Client, TcpStream) {
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

    /// The client waits in its write and cannot reconnect: the system has to end the connection.
    #[tokio::test]
    async fn connection_that_takes_no_bytes_ends() {
        let (client, _stream) = connect().await;
        let mut errors = client.error_rx();
        let writer = client.with_options(&scripts::once());
        // Together more than the buffers of both sides.
        let value = "x".repeat(1024 * 1024);
        let writes = (0..32).map(|_| writer.set::<(), _, _>("key", value.clone(), None, None, false));
        let _ = join_all(writes).await;
        let ended = tokio::time::timeout(3 * limits::LINK_RECEIPT_TIMEOUT, errors.recv()).await;
        assert!(ended.is_ok(), "the connection is open");
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
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "MISCONF Redis is configured to save RDB snapshots, but",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            assert_eq!(reply(text), BackendError::Unavailable, "{text}");
        }
        assert!(matches!(reply("ERR unknown command 'foo'"), BackendError::Refused(_)));
        assert!(matches!(reply("OOMPH"), BackendError::Refused(_)));
    }

    /// As Redis 6.2 reports them.
    #[test]
    fn errors_raised_in_scripts_are_mapped_by_their_code() {
        let raised = |text: &str| {
            let call = "ERR Error running script (call to f_f93b57b472c58a4581dda62a695204ba6c34d1a9): \
                        @user_script:12: @user_script: 12: ";
            BackendError::from(Error::new(ErrorKind::Unknown, [call, text].concat()))
        };
        let full = "-OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(raised(full), BackendError::OutOfMemory);
        for text in [
            "-READONLY You can't write against a read only replica.",
            "-MISCONF Redis is configured to save RDB snapshots, but",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            assert_eq!(raised(text), BackendError::Unavailable, "{text}");
        }
        let refused = "The user executing the script can't run this command or subcommand";
        assert!(matches!(raised(refused), BackendError::Refused(_)));
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
