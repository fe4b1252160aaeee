//! A member who stays: sits in presence channels, and writes down who comes and
//! goes. Everyone's view of a channel is checked with every frame: whoever is
//! there does not come, and whoever is not there does not go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::browser::{Browser, Frame, Incoming};
use super::server::Server;
use super::{PATIENCE, TEST_TIME_MAX};

/// Who is in a channel, as one socket has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub ids: BTreeSet<String>,
}

/// One that a socket was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added(String),
    Removed(String),
}

impl View {
    /// What `subscription_succeeded` shows to a user who joins: himself among
    /// others, each once.
    pub fn of_joining(presence: &Value, user_id: &str) -> Result<View, String> {
        let wrong = |what: &str| Err(format!("{user_id} is shown {what}: {presence}"));
        let Some(list) = presence["ids"].as_array() else { return wrong("no ids") };
        let ids: BTreeSet<String> = list.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect();
        let Some(hash) = presence["hash"].as_object() else { return wrong("no hash") };
        if ids.len() != list.len() || presence["count"] != list.len() {
            return wrong("another number than count says");
        }
        if !hash.keys().eq(ids.iter()) {
            return wrong("other users than ids says");
        }
        if !ids.contains(user_id) {
            return wrong("a channel without himself");
        }
        Ok(View { ids })
    }

    /// Takes in a frame of the channel; the change, if it is one of members.
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
        changes.then_some(Some(change)).ok_or_else(|| format!("{}, with {:?} there", frame.text, self.ids))
    }
}

/// What an observer has been told.
#[derive(Debug, Default)]
pub struct Diary {
    views: BTreeMap<String, View>,
    changes: BTreeMap<String, Vec<Change>>,
    /// The newest event that is not about members, by channel.
    newest: BTreeMap<String, String>,
    /// Why nothing more is written.
    end: Option<String>,
}

pub struct Observer {
    /// For the messages of failures.
    pub name: String,
    diary: watch::Receiver<Diary>,
    reader: JoinHandle<()>,
}

impl Observer {
    /// Joins all of these channels of app 1 as this user.
    pub async fn join(server: &Server, channels: &[String], user_id: &str) -> Observer {
        let mut browser = server.browser("key1").await;
        let mut diary = Diary::default();
        for channel in channels {
            let presence = browser.join(channel, user_id).await;
            let view = View::of_joining(&presence, user_id).unwrap_or_else(|why| panic!("{why}"));
            diary.views.insert(channel.clone(), view);
        }
        let (writer, diary) = watch::channel(diary);
        let reader = tokio::spawn(listen(browser, writer));
        Observer { name: user_id.to_owned(), diary, reader }
    }

    /// Who came and went since it joined.
    pub fn changes(&self, channel: &str) -> Vec<Change> {
        self.diary.borrow().changes.get(channel).cloned().unwrap_or_default()
    }

    pub fn view(&self, channel: &str) -> View {
        self.diary.borrow().views[channel].clone()
    }

    /// Waits until the newest event of the channel is this one.
    pub async fn heard(&self, channel: &str, name: &str) {
        let is_newest = |diary: &Diary| diary.newest.get(channel).is_some_and(|newest| newest == name);
        self.until(&format!("{name} on {channel}"), PATIENCE, is_newest).await;
    }

    /// Waits until it has been told of so many changes of the channel.
    pub async fn has_changes(&self, channel: &str, count: usize) {
        let has = |diary: &Diary| diary.changes.get(channel).map_or(0, Vec::len) >= count;
        self.until(&format!("change {count} of {channel}"), PATIENCE, has).await;
    }

    async fn until(&self, what: &str, within: Duration, check: impl Fn(&Diary) -> bool) {
        let mut diary = self.diary.clone();
        let done = diary.wait_for(|diary| check(diary) || diary.end.is_some());
        let Ok(diary) = tokio::time::timeout(within, done).await else {
            panic!("{}: no {what} within {within:?}", self.name);
        };
        let diary = diary.expect("the writer stays");
        assert!(check(&diary), "{}: before {what}: {:?}", self.name, diary.end);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Diary {
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

async fn listen(mut browser: Browser, diary: watch::Sender<Diary>) {
    while diary.borrow().end.is_none() {
        let incoming = browser.next_kept_within(TEST_TIME_MAX).await;
        diary.send_modify(|diary| diary.write(incoming));
    }
    // The sender stays until the observer goes, so that nobody waits for nothing.
    std::future::pending::<()>().await;
}
