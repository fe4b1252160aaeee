//! The shared state of a cluster of one: the embedded default. The same contract
//! as Redis, in one process and behind one lock.

use std::collections::{HashMap, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::{Asserted, BackendError, Publication};
use crate::channel::Address;
use crate::event::{Announcement, AnnouncementId, Log, Position};
use crate::limits;
use crate::mailbox::{Mail, Mailbox};

#[derive(Debug)]
pub struct Memory {
    mailbox: Mailbox,
    /// A `std`-like lock and not an async one: nothing is awaited under it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<Address, Channel>,
    /// Channels in the order in which they were last announced on, to forget the
    /// idle ones; entries may be outdated.
    idle: VecDeque<(Instant, Address)>,
    /// The newest number of all channels: a new epoch starts above it.
    highest_seq: u64,
}

#[derive(Debug, Default)]
struct Channel {
    head: Option<Position>,
    log: VecDeque<(Instant, Announcement)>,
    log_bytes: usize,
    subscriptions: u64,
    listened: bool,
    announced: Option<Instant>,
}

impl Memory {
    pub fn new(mailbox: Mailbox) -> Memory {
        Memory { mailbox, state: Mutex::default() }
    }

    /// Waits for room in the inbox, then does it all in one step: a caller that
    /// hangs up meanwhile has published nothing.
    pub async fn publish(
        &self,
        id: AnnouncementId,
        publications: Vec<Publication>,
    ) -> Result<Vec<Option<u64>>, BackendError> {
        let mut room = self.mailbox.reserve(publications.len()).await.ok_or(BackendError::Unavailable)?;
        let mut state = self.state.lock();
        state.forget_idle();
        let mut counts = Vec::with_capacity(publications.len());
        for publication in publications {
            counts.push(publication.wants_count.then(|| state.count(&publication.address)));
            if let Some(mail) = state.announce(id, publication) {
                self.mailbox.hear_with(&mut room, mail);
            }
        }
        Ok(counts)
    }

    pub fn listen(&self, address: &Address) {
        self.state.lock().channels.entry(address.clone()).or_default().listened = true;
    }

    pub fn unlisten(&self, address: &Address) {
        let mut state = self.state.lock();
        let Some(channel) = state.channels.get_mut(address) else { return };
        channel.listened = false;
        if channel.head.is_none() && channel.subscriptions == 0 {
            state.channels.remove(address);
        }
    }

    pub fn assert_subscriptions(&self, address: &Address, count: u64) -> Asserted {
        let mut state = self.state.lock();
        let channel = state.channels.entry(address.clone()).or_default();
        channel.subscriptions = count;
        Asserted { at: channel.head.unwrap_or_default(), total: count }
    }

    pub fn count_subscriptions(&self, address: &Address) -> u64 {
        self.state.lock().count(address)
    }

    pub fn read_log(&self, address: &Address, after: AnnouncementId) -> Log {
        let state = self.state.lock();
        let Some(channel) = state.channels.get(address) else { return Log::default() };
        let from = channel.log.iter().rposition(|(_, it)| it.id == after).map_or(0, |at| at + 1);
        let announcements = channel.log.iter().skip(from);
        Log {
            head: channel.head,
            announcements: announcements.map(|(_, announcement)| announcement.clone()).collect(),
        }
    }

    pub fn read_head(&self, address: &Address) -> Option<Position> {
        self.state.lock().channels.get(address)?.head
    }
}

impl State {
    fn count(&self, address: &Address) -> u64 {
        self.channels.get(address).map_or(0, |channel| channel.subscriptions)
    }

    /// Numbers and remembers; returns what is to be heard, if anyone listens.
    fn announce(&mut self, id: AnnouncementId, publication: Publication) -> Option<Mail> {
        let now = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let channel = self.channels.entry(publication.address.clone()).or_default();
        let head = channel.head.unwrap_or_else(|| {
            let start = self.highest_seq.max(unix.as_micros() as u64);
            Position { epoch: start, seq: start, ..Position::default() }
        });
        let announcement = Announcement {
            epoch: head.epoch,
            first_seq: head.seq + 1,
            count: publication.count,
            time_ms: unix.as_millis() as u64,
            id,
            prev: head.id,
            body: publication.body,
        };
        let head = announcement.position();
        channel.head = Some(head);
        channel.remember(now, announcement.clone());
        self.highest_seq = self.highest_seq.max(head.seq);
        if channel.announced.replace(now).is_none() {
            self.idle.push_back((now, publication.address.clone()));
        }
        channel.listened.then_some(Mail { address: publication.address, announcement })
    }

    /// Forgets channels that nobody listens to and nothing was announced on for
    /// [`limits::HEAD_IDLE_MAX`]. Each call looks at two: as many as it may add.
    fn forget_idle(&mut self) {
        for _ in 0..2 {
            let now = Instant::now();
            match self.idle.front() {
                Some((since, _)) if now.duration_since(*since) > limits::HEAD_IDLE_MAX => {}
                _ => return,
            }
            let Some((_, address)) = self.idle.pop_front() else { return };
            let Some(channel) = self.channels.get_mut(&address) else { continue };
            match channel.announced {
                Some(announced) if now.duration_since(announced) <= limits::HEAD_IDLE_MAX => {
                    self.idle.push_back((announced, address));
                }
                _ if channel.listened => {
                    *channel =
                        Channel { listened: true, subscriptions: channel.subscriptions, ..Channel::default() }
                }
                _ => drop(self.channels.remove(&address)),
            }
        }
    }
}

impl Channel {
    fn remember(&mut self, now: Instant, announcement: Announcement) {
        self.log_bytes += announcement.body.len();
        self.log.push_back((now, announcement));
        while self.log.len() > 1 && self.is_log_over(now) {
            let (_, oldest) = self.log.pop_front().expect("the log has more than one");
            self.log_bytes -= oldest.body.len();
        }
    }

    fn is_log_over(&self, now: Instant) -> bool {
        self.log.len() > limits::LOG_ANNOUNCEMENTS_MAX
            || self.log_bytes > limits::LOG_BYTES_MAX
            || self.log.front().is_some_and(|(at, _)| now.duration_since(*at) > limits::LOG_AGE_MAX)
    }
}
