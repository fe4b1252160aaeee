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
pub(super) enum Turn {
    Heard(Option<Result<Message, tungstenite::Error>>),
    WriteEvent(WriteEvent),
    /// Something may be due that no frame brings about.
    Due,
}

/// Everything that a waking may be for, once each: what there is to hear, which
/// the answer to a ping may be among; what could not be written by whoever had
/// something for the socket; and only then the clock.
pub(super) fn poll(context: &mut Context<'_>, stream: &mut Socket, deadline: Pin<&mut Sleep>) -> Poll<Turn> {
    if let Poll::Ready(message) = stream.poll_next_unpin(context) {
        return Poll::Ready(Turn::Heard(message));
    }
    if let Poll::Ready(event) = stream.get_ref().write_buffer.poll_event(context) {
        return Poll::Ready(Turn::WriteEvent(event));
    }
    deadline.poll(context).map(|()| Turn::Due)
}
