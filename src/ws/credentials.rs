//! Verification of `auth`: the signature of a subscription or a sign-in by the app's backend
//! (protocol.md 2.4, 2.9).

use std::borrow::Cow;

use thiserror::Error;

use crate::app::App;
use crate::auth;
use crate::limits;
use crate::metrics::metrics;

/// Why an `auth` is not valid.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum CredentialsError {
    #[error("`auth` must be the app's key, a colon and a signature")]
    Malformed,
    #[error("the key in `auth` is not the app key of this connection")]
    WrongKey,
    /// Repeats the signed text, as Pusher does: the author of an auth endpoint needs it to find
    /// the mistake.
    #[error(
        "Invalid signature: Expected HMAC SHA256 hex digest of {}, but got {}",
        shortened(text),
        shortened(signature)
    )]
    WrongSignature { text: String, signature: String },
}

/// Verifies that `auth` is the app's key, a colon, and the signature of one of `texts`, which
/// must not be empty. An error repeats the first text.
pub(super) fn check(app: &App, auth: &str, texts: &[String]) -> Result<(), CredentialsError> {
    let is_signature = |signature: &str| texts.iter().any(|text| auth::verify(&app.secrets, text, signature));
    let error = match auth.split_once(':') {
        None => CredentialsError::Malformed,
        Some((key, _)) if key != app.key => CredentialsError::WrongKey,
        Some((_, signature)) if is_signature(signature) => return Ok(()),
        Some((_, signature)) => {
            let (text, signature) = (texts[0].clone(), signature.to_owned());
            CredentialsError::WrongSignature { text, signature }
        }
    };
    metrics().auth_failures.increment(1);
    Err(error)
}

/// Cuts a text at [`limits::SHOWN_TEXT_BYTES_MAX`]: it comes from a message of up to 64 KB.
fn shortened(text: &str) -> Cow<'_, str> {
    let end = text.floor_char_boundary(limits::SHOWN_TEXT_BYTES_MAX);
    match &text[..end] {
        start if start.len() < text.len() => format!("{start}…").into(),
        whole => whole.into(),
    }
}
