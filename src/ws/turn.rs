//! What the task of a socket finds when it is woken.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Socket, writer};
use crate::hub::outbox::{Chunks, Outbox, Taken};
use crate::limits;
use crate::wire::close::Close;

/// What there is to do that takes more than a poll.
pub(super) enum Turn {
    Heard(Option<Result<Message, tungstenite::Error>>),
    /// The kernel has not taken all of what is to be written.
    Stalled,
    /// Something may be due that no frame brings about.
    Due,
    /// What was queued is written: the connection is to be closed.
    Close(Close),
    /// Nothing can be written any more.
    Lost,
}

/// Everything that a waking may be for, once each. First what is to be written:
/// most wakings are for that, and the kernel mostly takes it at once, so that the
/// task sleeps again within the poll that it was woken for. Then what there is to
/// hear, which the answer to a ping may be among, and only then the clock.
///
/// `heard_all` says that the library has nothing left of what it has read.
pub(super) fn poll(
    context: &mut Context<'_>,
    outbox: &Outbox,
    stream: &mut Socket,
    chunks: &mut Chunks,
    heard_all: &mut bool,
    deadline: Pin<&mut Sleep>,
) -> Poll<Turn> {
    match outbox.poll_take(context, chunks, limits::WRITE_CHUNKS_MAX) {
        Poll::Ready(Taken::Close(close)) => return Poll::Ready(Turn::Close(close)),
        Poll::Ready(Taken::Chunks { more }) => match writer::try_write(stream.get_ref(), chunks) {
            // Whoever sends without a pause must not keep us from hearing.
            Ok(true) if more => context.waker().wake_by_ref(),
            Ok(true) => {}
            Ok(false) => return Poll::Ready(Turn::Stalled),
            Err(_) => return Poll::Ready(Turn::Lost),
        },
        Poll::Pending => {}
    }
    // The library takes its time to find that nothing new has come; the runtime knows.
    if !*heard_all || stream.get_ref().poll_read_ready(context).is_ready() {
        let message = stream.poll_next_unpin(context);
        *heard_all = message.is_pending();
        if let Poll::Ready(message) = message {
            return Poll::Ready(Turn::Heard(message));
        }
    }
    deadline.poll(context).map(|()| Turn::Due)
}
