//! Requests that are answered before their body has been read, which is how a wrong
//! signature is refused.
//!
//! What has arrived of a small body is read after all, so that the connection can be
//! used again. Otherwise it cannot, and the client has to know: the answer carries
//! `Connection: close`, and what the client is still sending is discarded for a while,
//! so that it reads an answer and not a reset.

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

pub(super) async fn close_unread(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // A client that waits for `100 Continue` sends no body when it reads an answer.
    let is_coming = !request.headers().contains_key(header::EXPECT);
    let returned = Returned::default();
    let mut response =
        next.run(request.map(|inner| Body::new(RequestBody { inner, returned: returned.clone() }))).await;
    let Some(mut body) = returned.lock().take() else { return response };
    if is_coming && discard(&mut body, limits::UNREAD_BODY_BYTES_MAX, limits::UNREAD_BODY_TIMEOUT).await {
        return response;
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if is_coming {
        tokio::spawn(async move {
            discard(&mut body, limits::BODY_DRAIN_BYTES_MAX, limits::CLOSE_TIMEOUT).await;
        });
    }
    response
}

/// A body that was dropped before its end.
type Returned = Arc<Mutex<Option<Body>>>;

/// The body as handlers read it. What they leave of it comes back.
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

/// Reads and drops a body. True if it has ended within the bounds.
async fn discard(body: &mut Body, bytes_max: usize, within: Duration) -> bool {
    let discard = async {
        let mut left = bytes_max;
        while let Some(frame) = body.frame().await {
            let bytes = frame.ok()?.data_ref().map_or(0, Bytes::len);
            left = left.checked_sub(bytes)?;
        }
        Some(())
    };
    matches!(tokio::time::timeout(within, discard).await, Ok(Some(())))
}
