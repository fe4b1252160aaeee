//! Responses before the body of the request has been read, such as the refusal of a wrong
//! signature (protocol.md 1.10).
//!
//! If the rest of the body is small and arrives soon, it is read and discarded, and the
//! connection is kept. Otherwise the connection cannot be reused: the response carries
//! `Connection: close`, and the data that still arrives is discarded for a while, so that the
//! client receives the response instead of a connection reset.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::limits;

/// Middleware that closes the connection of a request whose body stays unread.
pub(super) async fn close_unread(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // A client that waits for `100 Continue` sends no body after a final response.
    let is_sent = !request.headers().contains_key(header::EXPECT);
    let returned = Returned::default();
    let mut response =
        next.run(request.map(|inner| Body::new(RequestBody { inner, returned: returned.clone() }))).await;
    let Some(mut body) = returned.lock().take() else { return response };
    if is_sent && discard(&mut body, limits::UNREAD_BODY_BYTES_MAX, limits::UNREAD_BODY_TIMEOUT).await {
        return response;
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if is_sent {
        tokio::spawn(async move {
            discard(&mut body, limits::BODY_DRAIN_BYTES_MAX, limits::CLOSE_TIMEOUT).await;
        });
    }
    response
}

/// The rest of a body that the handler dropped before its end.
type Returned = Arc<Mutex<Option<Body>>>;

/// The body that handlers read. It returns the unread rest when it is dropped.
struct RequestBody {
    inner: Body,
    returned: Returned,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.inner.is_end_stream() {
            *self.returned.lock() = Some(std::mem::take(&mut self.inner));
        }
    }
}

/// Reads and discards a body. Returns whether it ended within `bytes_max` bytes and `timeout`.
async fn discard(body: &mut Body, bytes_max: usize, timeout: Duration) -> bool {
    let discard = async {
        let mut remaining = bytes_max;
        while let Some(frame) = body.frame().await {
            let bytes = frame.ok()?.data_ref().map_or(0, Bytes::len);
            remaining = remaining.checked_sub(bytes)?;
        }
        Some(())
    };
    matches!(tokio::time::timeout(timeout, discard).await, Ok(Some(())))
}
