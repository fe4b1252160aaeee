//! The webhook outbox, and the transitions to check again later.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Memory, State};
use crate::channel::ChannelId;
use crate::entry::EntryId;
use crate::limits;
use crate::metrics::metrics;
use crate::webhook_event::{WebhookEvent, WebhookEventId, WebhookEventKind};

#[derive(Debug, Default)]
pub(super) struct WebhookOutbox {
    outbox: VecDeque<WebhookEvent>,
    number: u64,
    due: BTreeSet<(Instant, Due)>,
    due_at: HashMap<Due, Instant>,
}

/// A transition that is reported later, if it still holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Due {
    Vacated(ChannelId),
    Removed(ChannelId, Arc<str>),
    Count(ChannelId),
}

impl WebhookOutbox {
    pub(super) fn append(&mut self, channel_id: &ChannelId, what: WebhookEventKind) {
        if self.outbox.len() >= limits::WEBHOOK_OUTBOX_MAX {
            metrics().webhook_events_dropped.increment(1);
            return;
        }
        self.number += 1;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // A clock that is set back must not change the order.
        let before = self.outbox.back().map_or(0, |webhook_event| webhook_event.id.time_ms);
        let id = WebhookEventId { time_ms: before.max(unix.as_millis() as u64), number: self.number };
        let (app, channel) = (channel_id.app().into(), channel_id.channel().to_owned());
        self.outbox.push_back(WebhookEvent { id, app, channel, what });
    }

    /// Schedules a check of `due`, unless one is scheduled already.
    pub(super) fn schedule(&mut self, due: Due, after: Duration) {
        let at = Instant::now() + after;
        if self.due_at.contains_key(&due) {
            return;
        }
        self.due_at.insert(due.clone(), at);
        self.due.insert((at, due));
    }

    /// Cancels a scheduled check. Returns whether one was scheduled.
    pub(super) fn cancel(&mut self, due: &Due) -> bool {
        let Some(at) = self.due_at.remove(due) else { return false };
        self.due.remove(&(at, due.clone()))
    }

    fn next_due(&mut self, now: Instant) -> Option<Due> {
        let (at, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, due) = self.due.pop_first()?;
        self.due_at.remove(&due);
        Some(due)
    }
}

impl Memory {
    /// Settles due transitions, then reads. The number of transitions is bounded, because more
    /// webhook events at once would not fit in the outbox.
    pub fn read_webhook_events(&self, after: Option<&WebhookEventId>, count_max: usize) -> Vec<WebhookEvent> {
        let mut state = self.state.lock();
        let now = Instant::now();
        for _ in 0..limits::WEBHOOK_DUE_MAX {
            let Some(due) = state.webhook_events.next_due(now) else { break };
            if let Some(incoming) = state.settle(due) {
                self.events.push(incoming);
            }
        }
        let is_new = |webhook_event: &&WebhookEvent| after.is_none_or(|after| webhook_event.id > *after);
        state.webhook_events.outbox.iter().filter(is_new).take(count_max).cloned().collect()
    }

    pub fn remove_webhook_events(&self, ids: &[WebhookEventId]) {
        let ids: HashSet<&WebhookEventId> = ids.iter().collect();
        self.state.lock().webhook_events.outbox.retain(|webhook_event| !ids.contains(&webhook_event.id));
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
