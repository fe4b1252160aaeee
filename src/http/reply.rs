//! The response of a successful request: always 200 with a JSON object, because some client
//! libraries accept nothing else (protocol.md 1.2).

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The text of a JSON object.
#[derive(Debug)]
pub(super) struct Reply(pub(super) Vec<u8>);

impl Reply {
    /// `{}`
    pub(super) fn empty() -> Reply {
        Reply(b"{}".to_vec())
    }

    pub(super) fn json(body: &impl Serialize) -> Reply {
        Reply(serde_json::to_vec(body).expect("responses have text keys and serialize without errors"))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}
