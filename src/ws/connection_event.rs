//! The events that wake the task of a connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Socket;
use super::waiting::WaitingSubscribe;
use crate::sockets::subscription_permit::SubscriptionPermit;
use crate::sockets::write_buffer::WriteEvent;

/// An event whose handling takes more than a poll.
pub(super) enum ConnectionEvent {
    /// A message, an error, or the end of the stream (`None`).
    Received(Option<Result<Message, tungstenite::Error>>),
    Write(WriteEvent),
    /// The subscribe command that waited has its permit.
    MaySubscribe(SubscriptionPermit),
    /// The timer has fired. The deadline may have moved since it was set.
    Deadline,
}

/// Polls each source of events once: first received messages, because the response to a ping
/// may be among them, or the command before which none is read; then the write buffer, for
/// data that its producers could not flush; the timer last.
pub(super) fn poll(
    context: &mut Context<'_>,
    stream: &mut Socket,
    waiting: Option<&mut WaitingSubscribe>,
    deadline: Pin<&mut Sleep>,
) -> Poll<ConnectionEvent> {
    let received = match waiting {
        Some(waiting) => waiting.poll_permit(context).map(ConnectionEvent::MaySubscribe),
        None => stream.poll_next_unpin(context).map(ConnectionEvent::Received),
    };
    if received.is_ready() {
        return received;
    }
    if let Poll::Ready(event) = stream.get_ref().write_buffer.poll_event(context) {
        return Poll::Ready(ConnectionEvent::Write(event));
    }
    deadline.poll(context).map(|()| ConnectionEvent::Deadline)
}
