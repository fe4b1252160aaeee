//! A permanent member of presence channels that records the member changes. Checks
//! the view of a channel with every frame: no user is added twice, and only members
//! are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::browser::{Browser, Incoming};
use super::frame::Frame;
use super::server::Server;
use super::{STEP_TIMEOUT, TEST_TIME_MAX};

/// The members of a channel, according to the frames of one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub ids: BTreeSet<String>,
}

/// A member change that a socket has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added(String),
    Removed(String),
}

impl View {
    /// The members in `subscription_succeeded` of a new member: they include the
    /// member itself, and each id once.
    pub fn of_joining(presence: &Value, user_id: &str) -> Result<View, String> {
        let wrong = |what: &str| Err(format!("{user_id} received {what}: {presence}"));
        let Some(list) = presence["ids"].as_array() else { return wrong("no ids") };
        let ids: BTreeSet<String> = list.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect();
        let Some(hash) = presence["hash"].as_object() else { return wrong("no hash") };
        if ids.len() != list.len() || presence["count"] != list.len() {
            return wrong("a list that differs from count");
        }
        if !hash.keys().eq(ids.iter()) {
            return wrong("a hash that differs from ids");
        }
        if !ids.contains(user_id) {
            return wrong("a roster without the member itself");
        }
        Ok(View { ids })
    }

    /// Applies a frame of the channel. Returns the change if the frame is about
    /// members.
    pub fn take(&mut self, frame: &Frame) -> Result<Option<Change>, String> {
        let user = || frame.data_json()["user_id"].as_str().expect("a user_id is a string").to_owned();
        let change = match frame.event.as_str() {
            "pusher_internal:member_added" => Change::Added(user()),
            "pusher_internal:member_removed" => Change::Removed(user()),
            _ => return Ok(None),
        };
        let changes = match &change {
            Change::Added(user) => self.ids.insert(user.clone()),
            Change::Removed(user) => self.ids.remove(user),
        };
        changes.then_some(Some(change)).ok_or_else(|| format!("{}, with members {:?}", frame.text, self.ids))
    }
}

/// Everything that an observer has received.
#[derive(Debug, Default)]
pub struct Record {
    views: BTreeMap<String, View>,
    changes: BTreeMap<String, Vec<Change>>,
    /// The newest event that is not about members, by channel.
    newest: BTreeMap<String, String>,
    /// Why recording has ended.
    end: Option<String>,
}

pub struct Observer {
    /// Used in failure messages.
    pub name: String,
    record: watch::Receiver<Record>,
    reader: JoinHandle<()>,
}

impl Observer {
    /// Subscribes to all of these channels of app 1 as this user.
    pub async fn join(server: &Server, channels: &[String], user_id: &str) -> Observer {
        let mut browser = server.browser("key1").await;
        let mut record = Record::default();
        for channel in channels {
            let presence = browser.join(channel, user_id).await;
            let view = View::of_joining(&presence, user_id).unwrap_or_else(|why| panic!("{why}"));
            record.views.insert(channel.clone(), view);
        }
        let (writer, record) = watch::channel(record);
        let reader = tokio::spawn(listen(browser, writer));
        Observer { name: user_id.to_owned(), record, reader }
    }

    /// The member changes since the observer subscribed.
    pub fn changes(&self, channel: &str) -> Vec<Change> {
        self.record.borrow().changes.get(channel).cloned().unwrap_or_default()
    }

    pub fn view(&self, channel: &str) -> View {
        self.record.borrow().views[channel].clone()
    }

    /// Waits until the newest event of the channel is this one.
    pub async fn wait_for(&self, channel: &str, name: &str) {
        let is_newest = |record: &Record| record.newest.get(channel).is_some_and(|newest| newest == name);
        self.until(&format!("{name} on {channel}"), STEP_TIMEOUT, is_newest).await;
    }

    /// Waits until this many changes of the channel have arrived.
    pub async fn wait_for_changes(&self, channel: &str, count: usize) {
        let has = |record: &Record| record.changes.get(channel).map_or(0, Vec::len) >= count;
        self.until(&format!("change {count} of {channel}"), STEP_TIMEOUT, has).await;
    }

    async fn until(&self, what: &str, within: Duration, check: impl Fn(&Record) -> bool) {
        let mut record = self.record.clone();
        let done = record.wait_for(|record| check(record) || record.end.is_some());
        let Ok(record) = tokio::time::timeout(within, done).await else {
            panic!("{}: no {what} within {within:?}", self.name);
        };
        let record = record.expect("the writer stays");
        assert!(check(&record), "{}: before {what}: {:?}", self.name, record.end);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Record {
    fn write(&mut self, incoming: Incoming) {
        let result = match incoming {
            Incoming::Frame(frame) => self.write_frame(&frame),
            other => Err(format!("{other:?}")),
        };
        self.end = result.err();
    }

    fn write_frame(&mut self, frame: &Frame) -> Result<(), String> {
        let channel = frame.channel.clone().unwrap_or_default();
        let Some(view) = self.views.get_mut(&channel) else { return Ok(()) };
        match view.take(frame)? {
            Some(change) => self.changes.entry(channel).or_default().push(change),
            None => drop(self.newest.insert(channel, frame.event.clone())),
        }
        Ok(())
    }
}

async fn listen(mut browser: Browser, record: watch::Sender<Record>) {
    while record.borrow().end.is_none() {
        let incoming = browser.incoming_within(TEST_TIME_MAX).await;
        record.send_modify(|record| record.write(incoming));
    }
    // The sender stays until the observer is dropped, so that no receiver waits on
    // a closed channel.
    std::future::pending::<()>().await;
}
