//! A TCP proxy between a node and Redis that cuts and stalls connections, delays
//! messages and loses single ones. It parses message boundaries, so that it can act
//! between two messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::STEP_TIMEOUT;
use super::resp;

/// The connections that a rule applies to. The proxy classifies a connection by the
/// commands that the node has sent on it: until then it belongs to `All` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    #[default]
    All,
    /// Connections that have sent SUBSCRIBE.
    Subscriber,
    /// Connections that have sent EVALSHA, EVAL or FCALL, and no SUBSCRIBE.
    Scripts,
    /// The connection with this number: the proxy counts all that it has accepted, from 0. A
    /// node opens its four connections for scripts first; the first one has its lease.
    Nth(usize),
    /// The first connections, as many as this.
    First(usize),
}

/// The direction that a rule applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Node to Redis.
    Requests,
    /// Redis to node.
    Replies,
    Both,
}

#[derive(Default)]
struct Rules {
    /// Closed at once, and new ones as soon as the proxy has classified them.
    cut: Option<Links>,
    /// How many times `cut_once` was called, and the links of the last call.
    kick: (u64, Links),
    /// Open, but nothing gets through.
    stall: Option<(Links, Direction)>,
    delay: Option<(Links, Direction, Duration)>,
    /// Redis runs the next command with these bytes; its reply is lost together
    /// with its connection.
    lose_reply: Option<Loss>,
    /// The next message from Redis with these bytes is dropped.
    swallow: Option<Loss>,
}

struct Loss {
    pattern: Bytes,
    done: oneshot::Sender<()>,
}

struct Shared {
    /// Where new connections lead.
    redis: Mutex<SocketAddr>,
    rules: watch::Sender<Rules>,
    /// Open connections of nodes, and those whose next request is held back.
    open: AtomicU64,
    held: AtomicU64,
}

pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Resolves when the requested loss has happened.
pub struct Lost(oneshot::Receiver<()>);

impl Lost {
    pub async fn happened(self) {
        let done = tokio::time::timeout(STEP_TIMEOUT, self.0).await;
        done.expect("the proxy received the message in time").expect("the rule was not replaced");
    }
}

impl Proxy {
    /// In front of the Redis at this local port.
    pub async fn start(redis_port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let redis = Mutex::new(SocketAddr::from(([127, 0, 0, 1], redis_port)));
        let (open, held) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { redis, rules: watch::Sender::default(), open, held });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Proxy { addr, shared, task }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Leads new connections to the Redis at this local port.
    pub fn lead_to(&self, redis_port: u16) {
        self.shared.redis.lock().set_port(redis_port);
    }

    /// Closes these connections, and every new one, until [`Proxy::heal`].
    pub fn cut(&self, links: Links) {
        self.shared.rules.send_modify(|rules| rules.cut = Some(links));
    }

    /// Closes these connections once; accepts new ones.
    pub fn cut_once(&self, links: Links) {
        self.shared.rules.send_modify(|rules| rules.kick = (rules.kick.0 + 1, links));
    }

    /// Keeps these connections open and forwards nothing until [`Proxy::heal`],
    /// which then forwards everything held back.
    pub fn stall(&self, links: Links, direction: Direction) {
        self.shared.rules.send_modify(|rules| rules.stall = Some((links, direction)));
    }

    /// Waits until the next request is held back on at least this many connections.
    pub async fn holds_requests(&self, connections: u64) {
        self.becomes("held requests", &self.shared.held, |held| held >= connections).await;
    }

    /// Waits until Redis has received everything from nodes that have ended.
    pub async fn has_no_connections(&self) {
        self.becomes("open connections", &self.shared.open, |open| open == 0).await;
    }

    async fn becomes(&self, what: &str, counter: &AtomicU64, is_expected: impl Fn(u64) -> bool) {
        super::eventually(what, STEP_TIMEOUT, async || match counter.load(Ordering::Relaxed) {
            count if is_expected(count) => Ok(()),
            count => Err(count.to_string()),
        })
        .await;
    }

    /// Delays every message of these connections.
    pub fn delay(&self, links: Links, direction: Direction, by: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = Some((links, direction, by)));
    }

    /// Ends cutting, stalling and delaying.
    pub fn heal(&self) {
        self.shared.rules.send_modify(|rules| {
            rules.cut = None;
            rules.stall = None;
            rules.delay = None;
        });
    }

    /// Cuts a connection between execution and reply: the next command whose bytes
    /// contain `pattern` reaches Redis whole and runs, and the proxy closes its
    /// connection instead of forwarding the reply.
    pub fn lose_reply_of(&self, pattern: &str) -> Lost {
        let (loss, lost) = loss(pattern);
        self.shared.rules.send_modify(|rules| rules.lose_reply = Some(loss));
        lost
    }

    /// Drops the next message from Redis whose bytes contain `pattern`, and nothing
    /// else: simulates a lost entry.
    pub fn swallow(&self, pattern: &str) -> Lost {
        let (loss, lost) = loss(pattern);
        self.shared.rules.send_modify(|rules| rules.swallow = Some(loss));
        lost
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn loss(pattern: &str) -> (Loss, Lost) {
    let (done, wait) = oneshot::channel();
    (Loss { pattern: Bytes::copy_from_slice(pattern.as_bytes()), done }, Lost(wait))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut number = 0;
    while let Ok((node, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::Relaxed);
            Link::new(shared.clone(), number).run(node).await;
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
        number += 1;
    }
}

/// One connection of a node through the proxy to Redis.
struct Link {
    shared: Arc<Shared>,
    number: usize,
    subscriber: AtomicBool,
    scripts: AtomicBool,
    requests: AtomicU64,
    replies: AtomicU64,
    /// The number of the request whose reply is to be lost; 0 is none.
    lose_at: AtomicU64,
    losing: Mutex<Option<Loss>>,
}

/// Why forwarding in one direction ended.
#[derive(PartialEq, Eq)]
enum End {
    /// One side closed, or a rule cut the connection.
    Closed,
    /// The node closed. Redis runs everything that the node has sent.
    NodeClosed,
    /// The reply to lose has arrived.
    ReplyLost,
}

impl Link {
    fn new(shared: Arc<Shared>, number: usize) -> Link {
        Link {
            shared,
            number,
            subscriber: false.into(),
            scripts: false.into(),
            requests: 0.into(),
            replies: 0.into(),
            lose_at: 0.into(),
            losing: Mutex::new(None),
        }
    }

    async fn run(&self, node: TcpStream) {
        let kick_seen = self.shared.rules.borrow().kick.0;
        if self.is_cut() {
            return;
        }
        let redis = *self.shared.redis.lock();
        let Ok(redis) = TcpStream::connect(redis).await else { return };
        let _ = (node.set_nodelay(true), redis.set_nodelay(true));
        let (mut from_node, mut to_node) = node.into_split();
        let (mut from_redis, mut to_redis) = redis.into_split();
        let end = tokio::select! {
            end = self.requests(&mut from_node, &mut to_redis) => end,
            end = self.replies(&mut from_redis, &mut to_node) => end,
            () = self.cut(kick_seen) => End::Closed,
        };
        drop((from_node, to_node));
        match end {
            End::Closed => {}
            End::NodeClosed => run_out(from_redis, to_redis).await,
            End::ReplyLost => {
                run_out(from_redis, to_redis).await;
                self.lost();
            }
        }
    }

    async fn requests(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut buffer = BytesMut::new();
        while let Some(message) = message(from, &mut buffer).await {
            self.classify(&message);
            if self.is_cut() {
                return End::Closed;
            }
            self.shared.held.fetch_add(1, Ordering::Relaxed);
            let passes = self.hold(Direction::Requests).await;
            self.shared.held.fetch_sub(1, Ordering::Relaxed);
            if passes.is_none() {
                return End::Closed;
            }
            let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(loss) = self.take(&message, |rules| &mut rules.lose_reply) {
                *self.losing.lock() = Some(loss);
                self.lose_at.store(number, Ordering::Relaxed);
            }
            if to.write_all(&message).await.is_err() {
                break;
            }
        }
        End::NodeClosed
    }

    async fn replies(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut buffer = BytesMut::new();
        while let Some(message) = message(from, &mut buffer).await {
            // A push message is not the reply to a request.
            if message[0] != b'>' {
                let number = self.replies.fetch_add(1, Ordering::Relaxed) + 1;
                if number == self.lose_at.load(Ordering::Relaxed) {
                    return End::ReplyLost;
                }
            }
            if let Some(loss) = self.take(&message, |rules| &mut rules.swallow) {
                let _ = loss.done.send(());
                continue;
            }
            if self.hold(Direction::Replies).await.is_none() || to.write_all(&message).await.is_err() {
                break;
            }
        }
        End::Closed
    }

    fn classify(&self, request: &[u8]) {
        let Some(word) = first_word(request) else { return };
        match word.to_ascii_uppercase().as_slice() {
            b"SUBSCRIBE" | b"SSUBSCRIBE" | b"PSUBSCRIBE" => self.subscriber.store(true, Ordering::Relaxed),
            b"EVALSHA" | b"EVAL" | b"FCALL" => self.scripts.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    fn belongs_to(&self, links: Links) -> bool {
        match links {
            Links::All => true,
            Links::Subscriber => self.subscriber.load(Ordering::Relaxed),
            Links::Scripts => {
                self.scripts.load(Ordering::Relaxed) && !self.subscriber.load(Ordering::Relaxed)
            }
            Links::Nth(number) => self.number == number,
            Links::First(count) => self.number < count,
        }
    }

    fn is_cut(&self) -> bool {
        self.shared.rules.borrow().cut.is_some_and(|links| self.belongs_to(links))
    }

    /// Returns when a rule closes this connection.
    async fn cut(&self, kick_seen: u64) {
        let mut rules = self.shared.rules.subscribe();
        let closes = |rules: &Rules| {
            let kicked = rules.kick.0 != kick_seen && self.belongs_to(rules.kick.1);
            kicked || rules.cut.is_some_and(|links| self.belongs_to(links))
        };
        // The sender is in `shared`, which this link holds.
        let _ = rules.wait_for(closes).await;
    }

    /// Returns when a message may pass in this direction.
    async fn hold(&self, direction: Direction) -> Option<()> {
        let mut rules = self.shared.rules.subscribe();
        let concerns = |links, directions| {
            self.belongs_to(links) && (directions == direction || directions == Direction::Both)
        };
        let delay = {
            let free =
                |rules: &Rules| !rules.stall.is_some_and(|(links, directions)| concerns(links, directions));
            let rules = rules.wait_for(free).await.ok()?;
            rules.delay.filter(|(links, directions, _)| concerns(*links, *directions)).map(|(_, _, by)| by)
        };
        if let Some(by) = delay {
            tokio::time::sleep(by).await;
        }
        Some(())
    }

    /// Takes a rule that `message` matches: each applies to one message only.
    fn take(&self, message: &[u8], rule: impl Fn(&mut Rules) -> &mut Option<Loss>) -> Option<Loss> {
        let mut taken = None;
        self.shared.rules.send_if_modified(|rules| {
            let rule = rule(rules);
            if rule.as_ref().is_some_and(|loss| contains(message, &loss.pattern)) {
                taken = rule.take();
            }
            // No task waits for this change.
            false
        });
        taken
    }

    fn lost(&self) {
        if let Some(loss) = self.losing.lock().take() {
            // The test may have dropped the receiver.
            let _ = loss.done.send(());
        }
    }
}

/// Closes Redis's side in a way that lets it run the received commands: without the
/// reading, unread replies would turn the close into a reset.
async fn run_out(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = to.shutdown().await;
    let mut rest = BytesMut::new();
    while from.read_buf(&mut rest).await.is_ok_and(|count| count > 0) {
        rest.clear();
    }
}

/// The next complete message; `None` at the end.
async fn message(from: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Option<Bytes> {
    loop {
        if let Some(length) = resp::message_length(buffer) {
            return Some(buffer.split_to(length).freeze());
        }
        if from.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The name of a command: `*2\r\n$4\r\nPING…`.
fn first_word(request: &[u8]) -> Option<&[u8]> {
    let mut lines = request.split(|byte| *byte == b'\n');
    let word = if request.first() == Some(&b'*') { lines.nth(2) } else { lines.next() };
    word.map(<[u8]>::trim_ascii)
}

fn contains(message: &[u8], pattern: &[u8]) -> bool {
    message.windows(pattern.len()).any(|window| window == pattern)
}

/// Tests of the proxy itself, without a server.
mod tests {
    use super::*;
    use crate::support::Redis;
    use crate::support::resp::{Reply, command, reply};

    async fn command_reply(stream: &mut TcpStream, words: &[&str]) -> Option<Reply> {
        stream.write_all(&command(words)).await.ok()?;
        let mut answer = Vec::new();
        loop {
            if stream.read_buf(&mut answer).await.ok()? == 0 {
                return None;
            }
            if let Some((reply, _)) = reply(&answer) {
                return Some(reply);
            }
        }
    }

    async fn dial(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.addr).await.unwrap()
    }

    #[tokio::test]
    async fn lose_reply_of_drops_reply_after_redis_ran_command() {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let mut stream = dial(&proxy).await;
        let lost = proxy.lose_reply_of("counter");
        // Pipelined: the first reply arrives, the second is lost.
        stream.write_all(&command(&["PING"])).await.unwrap();
        assert_eq!(
            command_reply(&mut stream, &["INCR", "counter"]).await,
            Some(Reply::Simple("PONG".into()))
        );
        lost.happened().await;
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0, "the connection is closed");
        assert_eq!(redis.command(&["GET", "counter"]).await.text(), "1");
        let again = command_reply(&mut dial(&proxy).await, &["INCR", "counter"]).await;
        assert_eq!(again, Some(Reply::Integer(2)), "only once");
    }

    #[tokio::test]
    async fn cut_closes_only_matching_connections() {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let (mut subscriber, mut other) = (dial(&proxy).await, dial(&proxy).await);
        assert!(command_reply(&mut subscriber, &["SUBSCRIBE", "a"]).await.is_some());
        assert!(command_reply(&mut other, &["PING"]).await.is_some());
        proxy.cut(Links::Subscriber);
        assert_eq!(subscriber.read(&mut [0; 64]).await.unwrap_or(0), 0);
        assert!(command_reply(&mut other, &["PING"]).await.is_some(), "not a subscriber connection");
        assert_eq!(
            command_reply(&mut dial(&proxy).await, &["SUBSCRIBE", "a"]).await,
            None,
            "refused while cut"
        );
        proxy.heal();
        assert!(command_reply(&mut dial(&proxy).await, &["SUBSCRIBE", "a"]).await.is_some());
        proxy.cut_once(Links::All);
        assert_eq!(other.read(&mut [0; 64]).await.unwrap_or(0), 0);
        assert!(command_reply(&mut dial(&proxy).await, &["PING"]).await.is_some(), "only once");
    }

    #[tokio::test]
    async fn stalled_messages_arrive_after_heal_and_swallowed_ones_never() {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let mut stream = dial(&proxy).await;
        assert!(command_reply(&mut stream, &["SUBSCRIBE", "a"]).await.is_some());
        let swallowed = proxy.swallow("two");
        proxy.stall(Links::Subscriber, Direction::Replies);
        for text in ["one", "two", "three"] {
            redis.command(&["PUBLISH", "a", text]).await;
        }
        proxy.heal();
        swallowed.happened().await;
        let mut received = Vec::new();
        while !contains(&received, b"three") {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
        }
        assert!(contains(&received, b"one") && !contains(&received, b"two"));
    }
}
