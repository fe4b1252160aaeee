//! The webhook outboxes, one per app, and the transitions to check again later.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Memory, State};
use crate::backend::{ClaimedOutboxes, WebhookPage};
use crate::capacity::Shrink;
use crate::channel::ChannelId;
use crate::entry::EntryId;
use crate::limits;
use crate::webhook_event::{WebhookEvent, WebhookEventId, WebhookEventKind};

/// The outboxes of all apps.
#[derive(Debug, Default)]
pub(super) struct WebhookOutboxes {
    apps: HashMap<Arc<str>, AppOutbox>,
    /// Apps with events that were not read yet.
    unread: BTreeSet<Arc<str>>,
    /// Apps with scheduled transitions, by the time of the first one.
    next_due: BTreeSet<(Instant, Arc<str>)>,
    /// Number of the last event of any app.
    number: u64,
}

/// Removed when it is empty.
#[derive(Debug, Default)]
struct AppOutbox {
    events: VecDeque<WebhookEvent>,
    due: BTreeSet<(Instant, Due)>,
    due_at: HashMap<Due, Instant>,
    /// Events dropped since the last claim.
    dropped: u64,
}

/// A transition that is reported later, if it still holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Due {
    Vacated(ChannelId),
    Removed(ChannelId, Arc<str>),
    Count(ChannelId),
}

impl Due {
    fn app(&self) -> &str {
        match self {
            Due::Vacated(channel_id) | Due::Removed(channel_id, _) | Due::Count(channel_id) => {
                channel_id.app()
            }
        }
    }
}

impl AppOutbox {
    fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl WebhookOutboxes {
    pub(super) fn append(&mut self, channel_id: &ChannelId, what: WebhookEventKind) {
        let app: Arc<str> = channel_id.app().into();
        let outbox = self.apps.entry(app.clone()).or_default();
        self.unread.insert(app.clone());
        if outbox.events.len() >= limits::WEBHOOK_OUTBOX_MAX {
            outbox.dropped += 1;
            return;
        }
        self.number += 1;
        // A clock that is set back must not change the order.
        let before = outbox.events.back().map_or(0, |webhook_event| webhook_event.id.time_ms);
        let id = WebhookEventId { time_ms: before.max(unix_ms()), number: self.number };
        outbox.events.push_back(WebhookEvent { id, app, channel: channel_id.channel().to_owned(), what });
    }

    /// Schedules a check of `due`, unless one is scheduled already.
    pub(super) fn schedule(&mut self, due: Due, after: Duration) {
        let at = Instant::now() + after;
        let app: Arc<str> = due.app().into();
        let outbox = self.apps.entry(app.clone()).or_default();
        if outbox.due_at.contains_key(&due) {
            return;
        }
        let before = outbox.next_due();
        outbox.due_at.insert(due.clone(), at);
        outbox.due.insert((at, due));
        self.move_app(app, before);
    }

    /// Cancels a scheduled check. Returns whether one was scheduled.
    pub(super) fn cancel(&mut self, due: &Due) -> bool {
        let Some(outbox) = self.apps.get_mut(due.app()) else { return false };
        let before = outbox.next_due();
        let Some(at) = outbox.due_at.remove(due) else { return false };
        outbox.due_at.shrink_if_sparse();
        outbox.due.remove(&(at, due.clone()));
        self.move_app(due.app().into(), before);
        self.remove_if_empty(due.app());
        true
    }

    /// Corrects the index of apps after a change of the transitions of one.
    fn move_app(&mut self, app: Arc<str>, before: Option<Instant>) {
        let after = self.apps.get(&app).and_then(AppOutbox::next_due);
        if after == before {
            return;
        }
        if let Some(before) = before {
            self.next_due.remove(&(before, app.clone()));
        }
        self.next_due.extend(after.map(|after| (after, app)));
    }

    /// Takes a due transition of the app.
    fn take_due(&mut self, app: &str, now: Instant) -> Option<Due> {
        let outbox = self.apps.get_mut(app)?;
        let before = outbox.next_due().filter(|at| *at <= now)?;
        let (_, due) = outbox.due.pop_first()?;
        outbox.due_at.remove(&due);
        outbox.due_at.shrink_if_sparse();
        self.move_app(app.into(), Some(before));
        Some(due)
    }

    /// The apps with unread events or due transitions.
    fn list(&mut self, is_new: bool, now: Instant) -> ClaimedOutboxes {
        if is_new {
            self.unread.extend(self.apps.keys().cloned());
        }
        let due = self.next_due.iter().take_while(|(at, _)| *at <= now);
        self.unread.extend(due.map(|(_, app)| app.clone()));
        let dropped = self.unread.iter().filter_map(|app| {
            let outbox = self.apps.get_mut(app).filter(|outbox| outbox.dropped > 0)?;
            Some((app.clone(), std::mem::take(&mut outbox.dropped)))
        });
        ClaimedOutboxes { dropped: dropped.collect(), apps: self.unread.iter().cloned().collect() }
    }

    fn read(&mut self, app: &str, after: Option<&WebhookEventId>, count_max: usize) -> Vec<WebhookEvent> {
        self.unread.remove(app);
        let Some(outbox) = self.apps.get(app) else { return Vec::new() };
        let start = after.map_or(0, |after| outbox.events.partition_point(|event| event.id <= *after));
        outbox.events.range(start..).take(count_max).cloned().collect()
    }

    fn remove(&mut self, app: &str, ids: &[WebhookEventId]) {
        let Some(outbox) = self.apps.get_mut(app) else { return };
        let ids: HashSet<&WebhookEventId> = ids.iter().collect();
        outbox.events.retain(|webhook_event| !ids.contains(&webhook_event.id));
        outbox.events.shrink_if_sparse();
        self.remove_if_empty(app);
    }

    fn remove_if_empty(&mut self, app: &str) {
        let is_empty =
            |outbox: &AppOutbox| outbox.events.is_empty() && outbox.due.is_empty() && outbox.dropped == 0;
        if self.apps.get(app).is_some_and(is_empty) {
            self.apps.remove(app);
            self.apps.shrink_if_sparse();
        }
    }
}

impl Memory {
    pub fn list_webhook_outboxes(&self, is_new: bool) -> ClaimedOutboxes {
        self.state.lock().webhook_events.list(is_new, Instant::now())
    }

    /// Settles due transitions, then reads. The number of transitions is bounded, because the lock
    /// blocks all others.
    pub fn read_webhook_outbox(
        &self,
        app: &str,
        after: Option<&WebhookEventId>,
        count_max: usize,
    ) -> WebhookPage {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut settled = 0;
        while settled < limits::WEBHOOK_DUE_MAX
            && let Some(due) = state.webhook_events.take_due(app, now)
        {
            settled += 1;
            if let Some(incoming) = state.settle(due) {
                self.events.push(incoming);
            }
        }
        let events = state.webhook_events.read(app, after, count_max);
        state.webhook_events.remove_if_empty(app);
        let is_full = count_max > 0 && events.len() == count_max;
        let has_more = is_full || settled == limits::WEBHOOK_DUE_MAX;
        WebhookPage { has_more, events, read_ms: unix_ms() }
    }

    pub fn remove_webhook_events(&self, app: &str, ids: &[WebhookEventId]) {
        self.state.lock().webhook_events.remove(app, ids);
    }
}

impl State {
    fn settle(&mut self, due: Due) -> Option<crate::backend_events::Incoming> {
        match due {
            Due::Vacated(channel_id) => {
                if self.counts(&channel_id).subscriptions == 0 {
                    self.webhook_events.append(&channel_id, WebhookEventKind::ChannelVacated);
                }
                None
            }
            Due::Removed(channel_id, user) => {
                let channel = self.channels.get(&channel_id);
                if !channel.is_some_and(|channel| channel.membership.has_user(&user)) {
                    self.webhook_events
                        .append(&channel_id, WebhookEventKind::MemberRemoved { user_id: user.to_string() });
                }
                None
            }
            Due::Count(channel_id) => {
                self.channel(&channel_id).membership.count_sent = None;
                let (kind, body) = self.report_count(&channel_id)?;
                self.append(EntryId::random(), &channel_id, kind, 1, body)
            }
        }
    }
}
