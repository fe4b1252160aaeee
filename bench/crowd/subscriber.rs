//! One subscriber: a small task that checks what it is sent.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use memchr::memmem;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::delta::{Chain, Step, number};
use super::tally::Tally;
use super::track::Track;
use super::{Dialect, Speech};
use crate::frames::{self, Frame, Frames};
use crate::record::Faults;

#[derive(Debug)]
pub struct Subscriber {
    stream: TcpStream,
    frames: Frames,
    events: Events,
}

#[derive(Debug)]
struct Events {
    channel: u32,
    track: Track,
    chain: Chain,
    decodes: bool,
    tally: Arc<Tally>,
}

impl Subscriber {
    /// `read` is what has come already.
    pub fn new(socket: u32, stream: TcpStream, read: &[u8], tally: Arc<Tally>) -> Subscriber {
        let gather = tally.gather();
        let decodes = matches!(gather.speech, Speech::Pusher { deltas: true, .. })
            && socket.is_multiple_of(gather.sample);
        let channel = socket % gather.load.channels;
        let (track, chain) = Default::default();
        let events = Events { channel, track, chain, decodes, tally };
        let mut subscriber = Subscriber { stream, frames: Frames::default(), events };
        subscriber.take(read);
        subscriber
    }

    /// Until the socket is closed.
    pub async fn stay(mut self) {
        std::future::poll_fn(|context| self.poll(context)).await;
        self.events.tally.fault(Faults { closed: 1, ..Faults::default() });
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut read = ReadBuf::new(buffer);
                match ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)) {
                    Ok(()) if !read.filled().is_empty() => self.take(read.filled()),
                    _ => return Poll::Ready(()),
                }
            }
        })
    }

    fn take(&mut self, bytes: &[u8]) {
        let Subscriber { stream, frames, events } = self;
        let before = events.complete();
        let mut new = 0;
        frames.pass(bytes, |frame| {
            new += u64::from(events.take(frame));
            if let Some(answer) = answer(frame) {
                // So small that it fits, or the socket is lost anyhow.
                let _ = stream.try_write(&answer);
            }
        });
        events.tally.count(new, bytes.len());
        events.tally.advance(events.channel, before, events.complete());
    }
}

impl Events {
    fn complete(&self) -> u64 {
        self.track.complete(self.tally.gather().load.events.into())
    }

    /// Whether an event came that had not come before.
    fn take(&mut self, frame: Frame<'_>) -> bool {
        let Some(number) = self.number(frame) else { return false };
        match self.track.take(number) {
            Ok(()) => true,
            Err(fault) => {
                self.tally.fault(fault);
                fault.reordered > 0
            }
        }
    }

    /// Of the event; None is no event.
    fn number(&mut self, frame: Frame<'_>) -> Option<u64> {
        if frame.opcode != frames::TEXT {
            return None;
        }
        let next = self.track.next();
        match self.tally.gather().speech {
            Speech::Floor => Some(next),
            Speech::Nchan | Speech::Pusher { deltas: false, .. } => number(frame.payload),
            Speech::Pusher { deltas: true, dialect, .. } => {
                let step = self.chain.step(frame.payload)?;
                let said = match (dialect, step) {
                    (Dialect::Pusher, Step::Number(number)) => number,
                    (Dialect::Pusher, Step::After(step)) => (next + step).checked_sub(1)?,
                    (Dialect::Sockudo, _) => next,
                };
                if self.decodes {
                    match self.chain.decode(frame.payload).and_then(number) {
                        Some(decoded) if decoded == said => self.tally.decoded(),
                        Some(_) => self.tally.fault(Faults { reordered: 1, ..Faults::default() }),
                        None => self.tally.fault(Faults { undecodable: 1, ..Faults::default() }),
                    }
                }
                Some(said)
            }
        }
    }
}

/// Servers ask now and then whether somebody is there.
fn answer(frame: Frame<'_>) -> Option<Vec<u8>> {
    match frame.opcode {
        frames::PING => Some(frames::masked(frames::PONG, frame.payload)),
        frames::TEXT if memmem::find(&frame.payload[..frame.payload.len().min(40)], b":ping\"").is_some() => {
            Some(frames::masked_text(br#"{"event":"pusher:pong","data":{}}"#))
        }
        _ => None,
    }
}
