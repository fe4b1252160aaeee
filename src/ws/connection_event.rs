//! What the task of a socket finds when it is woken.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Socket;
use crate::sockets::write_buffer::WriteEvent;

/// What there is to do that takes more than a poll.
pub(super) enum ConnectionEvent {
    Received(Option<Result<Message, tungstenite::Error>>),
    Write(WriteEvent),
    /// Something may be due that no frame brings about.
    Due,
}

/// Everything that a waking may be for, once each: what there is to hear, which
/// the answer to a ping may be among; what could not be written by whoever had
/// something for the socket; and only then the clock.
pub(super) fn poll(
    context: &mut Context<'_>,
    stream: &mut Socket,
    deadline: Pin<&mut Sleep>,
) -> Poll<ConnectionEvent> {
    if let Poll::Ready(message) = stream.poll_next_unpin(context) {
        return Poll::Ready(ConnectionEvent::Received(message));
    }
    if let Poll::Ready(event) = stream.get_ref().write_buffer.poll_event(context) {
        return Poll::Ready(ConnectionEvent::Write(event));
    }
    deadline.poll(context).map(|()| ConnectionEvent::Due)
}
