//! The webhook outboxes: one per app and partition. All of a partition have one consumer.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike, StreamsInterface};
use futures_util::{StreamExt, stream};

use super::lease::process_of;
use super::scripts::{number, text};
use super::{Redis, scripts};
use crate::backend::{BackendError, ClaimedOutboxes, WebhookPage};
use crate::channel::{ChannelId, Partition};
use crate::entry::EntryId;
use crate::event::decode_events;
use crate::limits;
use crate::metrics::{apps, metrics};
use crate::webhook_event::{OutboxId, WebhookEvent, WebhookEventId, WebhookEventKind};

type StreamEntry = (String, HashMap<String, Bytes>);

impl Redis {
    /// The partitions for which this node has the highest hash of all living nodes (rendezvous
    /// hashing): all nodes compute the same result, and a new node takes only its share.
    pub fn own_partitions(&self) -> Vec<Partition> {
        let Some(own) = self.lease.incarnation() else { return Vec::new() };
        let nodes = self.lease.nodes();
        let is_own = |partition: &Partition| {
            let own_hash = rendezvous_hash(own.process(), *partition);
            let mut others = nodes.iter().map(|node| process_of(node)).filter(|it| *it != own.process());
            others.all(|other| rendezvous_hash(other, *partition) < own_hash)
        };
        Partition::all().filter(is_own).collect()
    }

    /// `lua/claim_webhook_outboxes.lua`
    pub async fn claim_webhook_outboxes(
        &self,
        partition: Partition,
        is_new: bool,
    ) -> Result<Option<ClaimedOutboxes>, BackendError> {
        self.claim(partition, limits::WEBHOOK_LEASE, is_new).await
    }

    pub async fn release_webhook_outboxes(&self, partition: Partition) -> Result<(), BackendError> {
        self.claim(partition, Duration::ZERO, false).await.map(drop)
    }

    async fn claim(
        &self,
        partition: Partition,
        lease: Duration,
        is_new: bool,
    ) -> Result<Option<ClaimedOutboxes>, BackendError> {
        let node = self.lease.incarnation().ok_or(BackendError::Unavailable)?;
        let names = vec![self.core.keys.consumer(partition), self.core.keys.webhook_apps(partition)];
        let arguments = vec![
            text(node.process()),
            number(lease.as_millis() as u64),
            number(u64::from(is_new)),
            number(limits::WEBHOOK_APPS_MAX as u64),
        ];
        let client = self.core.client_of(partition);
        let answer = self.core.scripts.claim_webhook_outboxes.run(client, names, arguments).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let (apps, dropped): (Vec<String>, Vec<(String, u64)>) = answer.convert()?;
        let apps = apps.into_iter().map(Arc::from).collect();
        let dropped = dropped.into_iter().map(|(app, events)| (app.into(), events)).collect();
        Ok(Some(ClaimedOutboxes { apps, dropped }))
    }

    /// `lua/read_webhook_outbox.lua`; then settles the due transitions, whose events are read next.
    pub async fn read_webhook_outbox(
        &self,
        outbox: &OutboxId,
        after: Option<&WebhookEventId>,
        count_max: usize,
    ) -> Result<Option<WebhookPage>, BackendError> {
        let Some((entries, due, read_ms)) = self.read_outbox(outbox, after, count_max).await? else {
            return Ok(None);
        };
        let mut has_more = count_max > 0 && entries.len() == count_max;
        let settle = |transition: String| async move { self.settle_due(&transition).await };
        let mut settling = stream::iter(due).map(settle).buffered(limits::WEBHOOK_SETTLEMENTS_MAX);
        while let Some(settled) = settling.next().await {
            match settled {
                Ok(()) => has_more = true,
                Err(BackendError::Refused(error)) => {
                    tracing::error!(app = %outbox.app, %error, "due transition not settled");
                }
                Err(error) => return Err(error),
            }
        }
        let (mut events, mut unreadable) = (Vec::with_capacity(entries.len()), Vec::new());
        for (id, fields) in entries {
            match webhook_event(&id, fields) {
                Some(webhook_event) => events.push(webhook_event),
                None => unreadable.extend(WebhookEventId::parse(&id)),
            }
        }
        if !unreadable.is_empty() {
            metrics().webhook_events_dropped.increment(unreadable.len() as u64);
            apps::of_app(&outbox.app).webhook_events_dropped.increment(unreadable.len() as u64);
            tracing::warn!(count = unreadable.len(), "webhook events dropped: unreadable");
            self.remove_webhook_events(outbox, &unreadable).await?;
        }
        Ok(Some(WebhookPage { events, has_more, read_ms }))
    }

    async fn read_outbox(
        &self,
        outbox: &OutboxId,
        after: Option<&WebhookEventId>,
        count_max: usize,
    ) -> Result<Option<(Vec<StreamEntry>, Vec<String>, u64)>, BackendError> {
        let node = self.lease.incarnation().ok_or(BackendError::Unavailable)?;
        let OutboxId { partition, app } = outbox;
        let keys = &self.core.keys;
        let names = vec![
            keys.consumer(*partition),
            keys.webhook_apps(*partition),
            keys.outbox(*partition, app),
            keys.due(*partition, app),
        ];
        let arguments = vec![
            text(node.process()),
            text(&**app),
            text(after.map_or_else(|| "-".to_owned(), WebhookEventId::to_string)),
            number(count_max as u64),
            number(limits::WEBHOOK_DUE_MAX as u64),
        ];
        let client = self.core.client_of(*partition);
        let answer = self.core.scripts.read_webhook_outbox.run(client, names, arguments).await?;
        if answer.is_null() { Ok(None) } else { Ok(Some(answer.convert()?)) }
    }

    pub async fn remove_webhook_events(
        &self,
        outbox: &OutboxId,
        ids: &[WebhookEventId],
    ) -> Result<(), BackendError> {
        if ids.is_empty() {
            return Ok(());
        }
        let client = self.core.client_of(outbox.partition).with_options(&scripts::once());
        let ids: Vec<String> = ids.iter().map(WebhookEventId::to_string).collect();
        Ok(client.xdel(self.core.keys.outbox(outbox.partition, &outbox.app), ids).await?)
    }

    /// `lua/settle_due.lua`
    async fn settle_due(&self, transition: &str) -> Result<(), BackendError> {
        let Some(channel_id) = transition.split(' ').nth(1).and_then(ChannelId::from_wire) else {
            return Ok(());
        };
        let (keys, partition, app) = (&self.core.keys, channel_id.partition(), channel_id.app());
        let names = vec![
            keys.head(&channel_id),
            keys.log(&channel_id),
            keys.subs(&channel_id),
            keys.users(&channel_id),
            keys.outbox(partition, app),
            keys.due(partition, app),
            keys.webhook_apps(partition),
            keys.consumer(partition),
        ];
        let mut arguments = self.core.appending(EntryId::random(), 2);
        arguments.extend([text(transition), number(limits::WEBHOOK_OUTBOX_MAX as u64)]);
        let script = &self.core.scripts.settle_due;
        script.run(self.core.client(&channel_id), names, arguments).await?;
        Ok(())
    }
}

/// The weight of a node for a partition. If nodes of different builds disagree, the claim decides.
fn rendezvous_hash(node: &str, partition: Partition) -> u64 {
    let mut hasher = DefaultHasher::new();
    (node, partition.0).hash(&mut hasher);
    hasher.finish()
}

/// Decodes an element of the stream, which `lua/include/notify.lua` has written.
fn webhook_event(id: &str, mut fields: HashMap<String, Bytes>) -> Option<WebhookEvent> {
    let mut take = |field: &str| fields.remove(field);
    let mut take_text = |field: &str| String::from_utf8(take(field)?.to_vec()).ok();
    let channel_id = ChannelId::from_wire(&take_text("address")?)?;
    let what = match take_text("what")?.as_str() {
        "channel_occupied" => WebhookEventKind::ChannelOccupied,
        "channel_vacated" => WebhookEventKind::ChannelVacated,
        "member_added" => WebhookEventKind::MemberAdded { user_id: take_text("user")? },
        "member_removed" => WebhookEventKind::MemberRemoved { user_id: take_text("user")? },
        "cache_miss" => WebhookEventKind::CacheMiss,
        "subscription_count" => WebhookEventKind::SubscriptionCount(take_text("count")?.parse().ok()?),
        "client_event" => WebhookEventKind::ClientEvent(decode_events(take("event")?, 1).ok()?.pop()?),
        _ => return None,
    };
    let id = WebhookEventId::parse(id)?;
    Some(WebhookEvent { id, app: channel_id.app().into(), channel: channel_id.channel().to_owned(), what })
}
