//! Whether what a client says was signed by its app's backend (protocol.md 2.4,
//! 2.9).

use thiserror::Error;

use crate::app::App;
use crate::auth;
use crate::metrics::metrics;

/// What is wrong with an `auth`.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum CredentialsError {
    #[error("`auth` must be the app's key, a colon and a signature")]
    Form,
    #[error("the key in `auth` is not the key of this connection")]
    Key,
    /// Names the text, as Pusher does: it is what helps whoever writes an auth
    /// endpoint.
    #[error("Invalid signature: Expected HMAC SHA256 hex digest of {text}, but got {signature}")]
    Signature { text: String, signature: String },
}

/// `auth` is the app's key, a colon, and the signature of `text`.
pub(super) fn check(app: &App, auth: &str, text: String) -> Result<(), CredentialsError> {
    let wrong = match auth.split_once(':') {
        None => CredentialsError::Form,
        Some((key, _)) if key != app.key => CredentialsError::Key,
        Some((_, signature)) if auth::verify(&app.secrets, &text, signature) => return Ok(()),
        Some((_, signature)) => CredentialsError::Signature { text, signature: signature.to_owned() },
    };
    metrics().auth_failures.increment(1);
    Err(wrong)
}
