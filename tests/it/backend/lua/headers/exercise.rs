//! Runs each script through the Redis backend, and checks the decoded replies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare::app::{HookedEvents, Rate};
use fanfare::backend::redis::Redis as Backend;
use fanfare::backend::{
    Account, BackendError, Charge, ControlEntry, Counts, KeptBase, KeptBases, LastEvent, MembershipRules,
    MembershipUpdate, Publication, UpdatedMembership, UserCount,
};
use fanfare::backend_events::backend_events;
use fanfare::channel::{ChannelId, ChannelName};
use fanfare::entry::{EntryId, Kind};
use fanfare::event::encode_events;
use fanfare::limits::DetectionTimes;
use fanfare::presence::Member;
use fanfare::webhook_event::{OutboxId, WebhookEventKind};

use crate::backend::lua::calls::event;
use crate::support::{Redis, STEP_TIMEOUT, eventually};

pub const USERS: [&str; 2] = ["ann lee", "bob"];
pub const INFO: &str = "{}";

fn channel_id(channel: &str) -> ChannelId {
    ChannelId::new("1", &ChannelName::parse(channel, 200).unwrap())
}

fn publication(channel: &str, data: &str, is_cached: bool) -> Publication {
    let body = encode_events([&event(data)]);
    let last = is_cached.then_some(LastEvent { bytes: body.len(), ttl: Duration::from_secs(60) });
    Publication { channel_id: channel_id(channel), count: 1, body, wants_counts: true, last, bases: None }
}

fn with_base(publication: Publication) -> Publication {
    let base = KeptBase { key: Bytes::new(), index: 0, start: 0, bytes: publication.body.len() };
    Publication { bases: Some(KeptBases { keys_max: 1, newest: vec![base] }), ..publication }
}

fn rules() -> MembershipRules {
    let (hooked, members_max) = (HookedEvents(127), 1);
    MembershipRules { hooked, subscription_counts: true, user_status: true, members_max, occupied_max: 100 }
}

fn update(channel: &str, count: u64) -> MembershipUpdate {
    MembershipUpdate {
        channel_id: channel_id(channel),
        count,
        users: Vec::new(),
        rules: rules(),
        wants_last: true,
        is_new: true,
    }
}

fn charge(account: Account, cost: u64) -> Charge {
    Charge { app: "1".into(), account, cost, rate: Rate { count: 10, window: Duration::from_secs(60) } }
}

pub async fn all_scripts(redis: &Redis) {
    let (events, _receiver) = backend_events();
    let backend = Backend::connect(&redis.url(), None, "fanfare", events, DetectionTimes::default(), |_| {})
        .await
        .unwrap();
    publish(&backend).await;
    update_memberships(&backend).await;
    read(&backend).await;
    claim_webhook_events(&backend).await;
    assert_eq!(backend.hold_connections("1", 3, 9, 5).await, Ok(5));
    // A lease without renewals is fenced.
    let (leases, node) = ("fanfare:{nodes}:leases", "0123456789abcdef");
    redis.command(&["HSET", leases, node, "7"]).await;
    eventually("the fencing", 2 * STEP_TIMEOUT, async || {
        match redis.command(&["HEXISTS", leases, node]).await.integer() {
            0 => Ok(()),
            _ => Err("the lease exists".to_owned()),
        }
    })
    .await;
}

async fn publish(backend: &Backend) {
    let two = vec![publication("news", "1", false), publication("cache-news", "2", true)];
    let published = backend.publish_batch(EntryId::random(), two, None).await.unwrap();
    assert_eq!((published.counts, published.rate), (vec![Some(Counts::default()); 2], None));
    let one = || vec![publication("news", "3", false), with_base(publication("kept", "4", false))];
    let charged = backend
        .publish_batch(EntryId::random(), one(), Some(charge(Account::BackendEvents, 8)))
        .await
        .unwrap();
    assert_eq!(charged.rate.unwrap().remaining, 2);
    let refused =
        backend.publish_batch(EntryId::random(), one(), Some(charge(Account::BackendEvents, 3))).await;
    assert!(matches!(refused, Err(BackendError::RateLimited(state)) if state.remaining == 2), "{refused:?}");
    // Reads are charged to a window of their own.
    assert_eq!(backend.charge(&charge(Account::ReadRequests, 9)).await.unwrap().remaining, 1);
    assert!(matches!(
        backend.charge(&charge(Account::ReadRequests, 2)).await,
        Err(BackendError::RateLimited(_))
    ));
    let body = encode_events([&event("moved")]);
    let control =
        ControlEntry { channel_id: channel_id("news"), kind: Kind::ClientEvents, body, hooked: true };
    backend.append(control).await.unwrap();
}

async fn update_memberships(backend: &Backend) {
    let missed = backend.update_membership(&update("news", 2)).await.unwrap();
    assert_eq!((missed.total, missed.last, missed.refused), (2, None, vec![]));
    let joined = backend.update_membership(&update("cache-news", 1)).await.unwrap();
    assert_eq!(joined.last.unwrap().event, event("2"));
    let user = |user: &str, count, is_new| {
        let member = Arc::new(Member::new(user.into(), Bytes::from_static(INFO.as_bytes())));
        UserCount { member, count, is_new }
    };
    let users = vec![user(USERS[0], 2, true), user(USERS[1], 1, true)];
    let presence = MembershipUpdate { users, ..update("presence-room", 3) };
    let UpdatedMembership { at, total, refused, .. } = backend.update_membership(&presence).await.unwrap();
    assert_eq!((total, refused), (2, vec![1]), "the limit is one user");
    assert_eq!(backend.read_heads(&[channel_id("presence-room")]).await, Ok(vec![Some(at)]));
    let roster = backend.read_roster(&channel_id("presence-room")).await.unwrap();
    assert_eq!(roster.own, [USERS[0].into()]);
    assert_eq!(roster.roster.iter().next().map(|it| &it.1[..]), Some(INFO.as_bytes()));
    backend.update_membership(&update("news", 0)).await.unwrap();
}

async fn read(backend: &Backend) {
    let news = channel_id("news");
    let log = backend.read_log(&news, EntryId::NONE).await.unwrap();
    let position = log.head.unwrap();
    assert_eq!(log.entries.last().unwrap().position(), position);
    backend.open_epoch(&news, position.epoch, position.seq + 9).await.unwrap();
    let heads = backend.read_heads(&[news.clone(), channel_id("unknown")]).await.unwrap();
    assert!(heads[0].unwrap().epoch > position.epoch);
    assert_eq!(heads[1], None);
    let since = backend.read_log_since(&news, position.seq as u32 & 0x7fff_ffff).await.unwrap();
    assert_eq!(
        since.entries.last().map(|last| last.position()),
        log.entries.last().map(|last| last.position())
    );
    assert_eq!(backend.read_bases(&news).await, Ok(vec![]));
    let bases = backend.read_bases(&channel_id("kept")).await.unwrap();
    assert_eq!(bases.iter().map(|base| &base.event).collect::<Vec<_>>(), [&event("4")]);
    backend.switch_deltas(&news, false).await.unwrap();
    assert_eq!(backend.read_cached(&news).await, Ok(None));
    assert_eq!(backend.read_cached(&channel_id("cache-news")).await.unwrap().unwrap().event, event("2"));
    let listed = backend.list_occupied("1", "").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.channel.as_str(), it.counts)).collect();
    let counts = |subscriptions, users| Counts { subscriptions, users };
    assert_eq!(listed, [("cache-news", counts(1, 0)), ("presence-room", counts(2, 1))]);
    assert_eq!(backend.read_counts(&channel_id("presence-room")).await, Ok(counts(2, 1)));
}

/// All webhook events of a channel. The last one is due after the grace period.
async fn claim_webhook_events(backend: &Backend) {
    let partition = channel_id("news").partition();
    assert!(backend.own_partitions().contains(&partition));
    let outbox = OutboxId { partition, app: "1".into() };
    let claimed = backend.claim_webhook_outboxes(partition, true).await.unwrap().unwrap();
    assert_eq!((claimed.apps, claimed.dropped), (vec!["1".into()], vec![]));
    let claimed = eventually("channel_vacated", STEP_TIMEOUT, async || {
        let webhook_events = backend.read_webhook_outbox(&outbox, None, 100).await.unwrap().unwrap().events;
        let is_complete =
            webhook_events.iter().any(|webhook_event| webhook_event.what == WebhookEventKind::ChannelVacated);
        if is_complete { Ok(webhook_events) } else { Err(format!("{webhook_events:?}")) }
    })
    .await;
    let of_news =
        claimed.iter().filter(|webhook_event| webhook_event.channel == "news" && &*webhook_event.app == "1");
    let kinds: Vec<&WebhookEventKind> = of_news.map(|webhook_event| &webhook_event.what).collect();
    let expected = [
        &WebhookEventKind::ClientEvent(event("moved")),
        &WebhookEventKind::ChannelOccupied,
        &WebhookEventKind::SubscriptionCount(2),
        &WebhookEventKind::CacheMiss,
        &WebhookEventKind::SubscriptionCount(0),
        &WebhookEventKind::ChannelVacated,
    ];
    assert_eq!(kinds, expected);
    let (first, rest) = claimed.split_first().unwrap();
    let after = backend.read_webhook_outbox(&outbox, Some(&first.id), 100).await.unwrap().unwrap();
    assert_eq!(after.events, rest);
    let ids: Vec<_> = claimed.into_iter().map(|webhook_event| webhook_event.id).collect();
    backend.remove_webhook_events(&outbox, &ids).await.unwrap();
    let empty = backend.read_webhook_outbox(&outbox, None, 100).await.unwrap().unwrap();
    assert_eq!((empty.events, empty.has_more), (vec![], false));
    let idle = backend.claim_webhook_outboxes(partition, true).await.unwrap().unwrap();
    assert_eq!((idle.apps, idle.dropped), (vec![], vec![]));
    backend.release_webhook_outboxes(partition).await.unwrap();
}
