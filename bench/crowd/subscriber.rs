//! A subscriber: a task that checks every event that it receives.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use memchr::memmem;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::delta::{Chain, Step, number};
use super::sequence::Sequence;
use super::tally::Tally;
use super::{EventPrefix, Protocol};
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
    sequence: Sequence,
    chain: Chain,
    decodes: bool,
    tally: Arc<Tally>,
}

impl Subscriber {
    /// `read` holds the bytes received after the handshake.
    pub fn new(socket: u32, stream: TcpStream, read: &[u8], tally: Arc<Tally>) -> Subscriber {
        let config = tally.config();
        let decodes = matches!(config.protocol, Protocol::Pusher { deltas: true, .. })
            && socket.is_multiple_of(config.sample);
        let channel = socket % config.load.channels;
        let (sequence, chain) = Default::default();
        let events = Events { channel, sequence, chain, decodes, tally };
        let mut subscriber = Subscriber { stream, frames: Frames::default(), events };
        subscriber.on_bytes(read);
        subscriber
    }

    /// Reads frames until the server closes the connection, which counts as a fault.
    pub async fn run(mut self) {
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
                    Ok(()) if !read.filled().is_empty() => self.on_bytes(read.filled()),
                    _ => return Poll::Ready(()),
                }
            }
        })
    }

    fn on_bytes(&mut self, bytes: &[u8]) {
        let Subscriber { stream, frames, events } = self;
        let before = events.complete();
        let mut new = 0;
        frames.push(bytes, |frame| {
            new += u64::from(events.on_frame(frame));
            if let Some(reply) = reply(frame) {
                // A small frame fits the socket buffer, unless the connection is stuck.
                let _ = stream.try_write(&reply);
            }
        });
        events.tally.count(new, bytes.len());
        events.tally.advance(events.channel, before, events.complete());
    }
}

impl Events {
    fn complete(&self) -> u64 {
        self.sequence.complete(self.tally.config().load.events.into())
    }

    /// Handles a frame. Returns whether it holds an event that had not arrived before.
    fn on_frame(&mut self, frame: Frame<'_>) -> bool {
        let Some(number) = self.number(frame) else { return false };
        match self.sequence.accept(number) {
            Ok(()) => true,
            Err(fault) => {
                self.tally.fault(fault);
                fault.reordered > 0
            }
        }
    }

    /// The number of the event in a frame. `None` if the frame is not an event.
    fn number(&mut self, frame: Frame<'_>) -> Option<u64> {
        if frame.opcode != frames::TEXT {
            return None;
        }
        let next = self.sequence.next();
        match self.tally.config().protocol {
            Protocol::Floor => Some(next),
            Protocol::Nchan | Protocol::Pusher { deltas: false, .. } => number(frame.payload),
            Protocol::Pusher { deltas: true, event_prefix, .. } => {
                let step = self.chain.step(frame.payload)?;
                let expected = match (event_prefix, step) {
                    (EventPrefix::Pusher, Step::Number(number)) => number,
                    (EventPrefix::Pusher, Step::After(step)) => (next + step).checked_sub(1)?,
                    (EventPrefix::Sockudo, _) => next,
                };
                if self.decodes {
                    match self.chain.decode(frame.payload).and_then(number) {
                        Some(decoded) if decoded == expected => self.tally.decoded(),
                        Some(_) => self.tally.fault(Faults { reordered: 1, ..Faults::default() }),
                        None => self.tally.fault(Faults { undecodable: 1, ..Faults::default() }),
                    }
                }
                Some(expected)
            }
        }
    }
}

/// The reply to a keepalive: a WebSocket ping or `pusher:ping`.
fn reply(frame: Frame<'_>) -> Option<Vec<u8>> {
    match frame.opcode {
        frames::PING => Some(frames::masked(frames::PONG, frame.payload)),
        frames::TEXT if memmem::find(&frame.payload[..frame.payload.len().min(40)], b":ping\"").is_some() => {
            Some(frames::masked_text(br#"{"event":"pusher:pong","data":{}}"#))
        }
        _ => None,
    }
}
