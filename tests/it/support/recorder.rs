//! A client with a task that records every frame, so that dozens of them can observe a
//! cluster while the test cuts its connections. The test checks the records afterwards.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut, Range};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::STEP_TIMEOUT;
use super::browser::Requests;
use super::frame::Envelope;
use super::server::Server;
use super::websocket::{self, Received, Source};

pub struct Recorder {
    requests: Requests,
    record: watch::Receiver<Record>,
    reader: JoinHandle<()>,
}

impl Deref for Recorder {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.requests
    }
}

impl DerefMut for Recorder {
    fn deref_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }
}

/// Everything that one socket has received, in order.
#[derive(Debug, Default)]
pub struct Record {
    pub entries: Vec<Entry>,
    /// Confirmations so far, by channel.
    confirmed: HashMap<String, usize>,
    /// The newest event's data, by channel.
    newest: HashMap<String, String>,
    events: usize,
    pongs: usize,
    /// How the connection ended, or the unexpected frame.
    end: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Confirmed(String),
    Event { channel: String, data: String },
}

impl Recorder {
    /// One socket of app 1.
    pub async fn connect(server: &Server) -> Recorder {
        let (mut requests, source) = server.browser("key1").await.split();
        requests.name = format!("recorder {}", requests.socket_id());
        let (writer, record) = watch::channel(Record::default());
        Recorder { requests, record, reader: tokio::spawn(listen(source, writer)) }
    }

    /// `count` sockets on this node, opened concurrently, each subscribed to all of
    /// these channels.
    pub async fn connect_many(server: &Server, count: usize, channels: &[&str]) -> Vec<Recorder> {
        let one = |_| async {
            let mut recorder = Recorder::connect(server).await;
            for channel in channels {
                recorder.subscribe(channel).await;
            }
            recorder
        };
        // In parts: the backlog of a listener is finite.
        futures_util::stream::iter(0..count).map(one).buffer_unordered(64).collect().await
    }

    // --- sending ----------------------------------------------------------------

    /// Subscribes and waits for the confirmation.
    pub async fn subscribe(&mut self, channel: &str) {
        let before = self.confirmations(channel);
        self.request_subscription(channel).await;
        let what = format!("the confirmation of {channel}");
        self.until(&what, STEP_TIMEOUT, |record| record.confirmations(channel) > before).await;
    }

    /// Unsubscribes, and waits until the server has read the request.
    pub async fn unsubscribe(&mut self, channel: &str) {
        self.request_unsubscription(channel).await;
        self.settle().await;
    }

    /// Returns when the server has read everything sent before.
    pub async fn settle(&mut self) {
        let before = self.record.borrow().pongs;
        self.ping().await;
        self.until("a pong", STEP_TIMEOUT, |record| record.pongs > before).await;
    }

    // --- received ---------------------------------------------------------------

    /// Waits until the newest event of the channel is this one.
    pub async fn wait_for(&self, channel: &str, data: &str) {
        self.wait_for_within(channel, data, STEP_TIMEOUT).await;
    }

    pub async fn wait_for_within(&self, channel: &str, data: &str, within: Duration) {
        let is_newest = |record: &Record| record.newest.get(channel).is_some_and(|newest| newest == data);
        self.until(&format!("{data:?} on {channel}"), within, is_newest).await;
    }

    /// Waits until at least `count` events and confirmations have arrived.
    pub async fn wait_for_count(&self, count: usize) {
        let what = format!("{count} events and confirmations");
        self.until(&what, STEP_TIMEOUT, |record| record.entries.len() >= count).await;
    }

    /// Waits until `check` returns true for the record.
    pub async fn until(&self, what: &str, within: Duration, check: impl Fn(&Record) -> bool) {
        let mut record = self.record.clone();
        let done = record.wait_for(|record| check(record) || record.end.is_some());
        match tokio::time::timeout(within, done).await {
            Ok(record) => {
                let record = record.expect("the last state stays");
                assert!(check(&record), "{} ended ({:?}) before {what}", self.name, record.end);
            }
            Err(_) => panic!("{}: no {what} within {within:?}; {}", self.name, self.record.borrow().tail()),
        }
    }

    pub fn is_open(&self) -> bool {
        self.record.borrow().end.is_none()
    }

    pub fn confirmations(&self, channel: &str) -> usize {
        self.record.borrow().confirmations(channel)
    }

    /// The subscriptions to the channel: the events after each confirmation.
    pub fn runs(&self, channel: &str) -> Vec<Vec<String>> {
        let mut runs = Vec::new();
        for entry in &self.record.borrow().entries {
            match entry {
                Entry::Confirmed(of) if of == channel => runs.push(Vec::new()),
                Entry::Event { channel: of, data } if of == channel => {
                    let run: &mut Vec<String> = runs.last_mut().unwrap_or_else(|| {
                        panic!("{}: {data:?} on {channel} arrived before the confirmation", self.name)
                    });
                    run.push(data.clone());
                }
                _ => {}
            }
        }
        runs
    }

    /// The events of the only subscription to the channel.
    pub fn run(&self, channel: &str) -> Vec<String> {
        let mut runs = self.runs(channel);
        assert_eq!(runs.len(), 1, "{}: subscriptions to {channel}", self.name);
        runs.remove(0)
    }

    /// The data of all events in the order of arrival.
    pub fn all_events(&self) -> Vec<String> {
        let of_event = |entry: &Entry| match entry {
            Entry::Event { data, .. } => Some(data.clone()),
            Entry::Confirmed(_) => None,
        };
        self.record.borrow().entries.iter().filter_map(of_event).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Record {
    pub fn confirmations(&self, channel: &str) -> usize {
        self.confirmed.get(channel).copied().unwrap_or(0)
    }

    /// Records a frame; `Err` if the frame is unexpected.
    fn write(&mut self, text: &str) -> Result<(), String> {
        let envelope = Envelope::parse(text)?;
        let channel = envelope.channel.as_deref().unwrap_or_default().to_owned();
        match &*envelope.event {
            "pusher:ping" => {}
            "pusher:pong" => self.pongs += 1,
            "pusher_internal:subscription_succeeded" => {
                *self.confirmed.entry(channel.clone()).or_default() += 1;
                self.entries.push(Entry::Confirmed(channel));
            }
            event if event.starts_with("pusher") => return Err(format!("unexpected frame: {text}")),
            _ if !envelope.data().starts_with('"') => return Err(format!("data is not a string: {text}")),
            _ => {
                let data = envelope.published().into_owned();
                self.events += 1;
                self.newest.insert(channel.clone(), data.clone());
                self.entries.push(Entry::Event { channel, data });
            }
        }
        Ok(())
    }

    /// The end of the record, for failure messages.
    fn tail(&self) -> String {
        let tail = self.entries.iter().rev().take(3).rev();
        format!("{} events so far, last {:?}", self.events, tail.collect::<Vec<_>>())
    }
}

async fn listen(mut source: Source, record: watch::Sender<Record>) {
    let end = loop {
        match websocket::next(&mut source).await {
            Received::Text(text) => {
                let mut written = Ok(());
                record.send_modify(|record| written = record.write(&text));
                if let Err(why) = written {
                    break why;
                }
            }
            Received::Pong(_) => {}
            end => break format!("{end:?}"),
        }
    };
    record.send_modify(|record| record.end = Some(end));
    // The sender stays until the recorder is dropped, so that no receiver waits on a
    // closed channel.
    std::future::pending::<()>().await;
}

/// The index range of the run in `sequence`: the run must be one piece without a
/// gap.
#[track_caller]
pub fn range_in(run: &[String], sequence: &[String], who: &str) -> Range<usize> {
    let Some(first) = run.first() else { return 0..0 };
    let start = sequence.iter().position(|data| data == first);
    let start = start.unwrap_or_else(|| panic!("{who}: {first:?} is not in the sequence"));
    for (at, data) in run.iter().enumerate() {
        let expected = sequence.get(start + at);
        assert!(
            expected == Some(data),
            "{who}: at {at} of its run (begun at {start} of {}) is {data:?}, not {expected:?}; around: {:?}",
            sequence.len(),
            &run[at.saturating_sub(3)..run.len().min(at + 4)],
        );
    }
    start..start + run.len()
}

/// Fails if an event occurs twice in this sequence.
#[track_caller]
pub fn assert_once_each(sequence: &[String], who: &str) {
    let mut seen = std::collections::HashSet::new();
    for data in sequence {
        assert!(seen.insert(data), "{who}: {data:?} arrived twice");
    }
}
