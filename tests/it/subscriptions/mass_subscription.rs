//! Mass subscriptions and disconnections are handled in bounded steps: a node
//! combines many of them in few membership updates, and other subscribers are not
//! delayed.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::recorder::Recorder;
use crate::support::{Backend, Cluster, Direction, Links, Proxy, Redis, STEP_TIMEOUT, eventually, within};

const SOCKETS: usize = 1_500;
/// Sockets that stay connected when the others disconnect.
const STAYING: usize = 100;
/// The channels of the new subscribers: the one that all have left, one that is
/// still to be cleared, and an unrelated one.
const NEW_CHANNELS: [&str; 3] = ["stadium", "channel-1400", "elsewhere"];
/// Delay of each reply of Redis, in sequence: the regular reports of the nodes
/// still fit in between.
const REPLY_DELAY: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(120);

/// All subscribe concurrently, once all are connected: the first membership update
/// is in flight until the last one has subscribed.
async fn subscribe_concurrently(sockets: &mut [Recorder], channel: &str, proxy: &Proxy) {
    proxy.delay(Links::Scripts, Direction::Replies, REPLY_DELAY);
    join_all(sockets.iter_mut().map(|recorder| recorder.request_subscription(channel))).await;
    join_all(sockets.iter_mut().map(Recorder::settle)).await;
    proxy.heal();
    for recorder in sockets {
        recorder.until("its confirmation", STEP_TIMEOUT, |record| record.confirmations(channel) == 1).await;
    }
}

#[tokio::test]
async fn cluster_mass_subscription_is_reported_in_few_membership_updates() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).proxied(0).start().await;
        let (nodes, proxy) = (&cluster.nodes, cluster.proxy());
        let updates = async || nodes[0].metrics().await.sum("fanfare_assertions_total");
        let counts = async |count: usize| {
            for node in nodes {
                node.caller("1").count_becomes("stadium", count).await;
            }
        };
        let mut sockets = Recorder::connect_many(&nodes[0], SOCKETS, &[]).await;
        let before = updates().await;
        subscribe_concurrently(&mut sockets, "stadium", proxy).await;
        // Exact as soon as all are confirmed.
        for node in nodes {
            assert_eq!(node.caller("1").subscription_count("stadium").await, SOCKETS);
        }
        let arrived = updates().await;
        println!("{} membership updates for {SOCKETS} subscriptions", arrived - before);
        assert!(arrived - before <= SOCKETS as f64 / 5.0, "{} membership updates", arrived - before);

        nodes[1].caller("1").publish("stadium", "e", "goal").await;
        for recorder in &sockets {
            recorder.wait_for("stadium", "goal").await;
            assert_eq!(recorder.run("stadium"), ["goal"], "{}", recorder.name);
        }

        // Some unsubscribe, the others disconnect. The disconnections arrive one
        // after another, while the test closes the sockets: fewer of them fit into
        // one membership update.
        let mut staying = sockets.split_off(SOCKETS - STAYING);
        for recorder in &mut staying {
            recorder.request_unsubscription("stadium").await;
        }
        proxy.delay(Links::Scripts, Direction::Replies, REPLY_DELAY);
        drop(sockets);
        let connected = async || match nodes[0].metrics().await.sum("fanfare_connections") as usize {
            STAYING => Ok(()),
            count => Err(count.to_string()),
        };
        eventually("the others disconnected", STEP_TIMEOUT, connected).await;
        proxy.heal();
        counts(0).await;
        let left = updates().await;
        println!("{} membership updates for {SOCKETS} disconnections", left - arrived);
        assert!(left - arrived <= SOCKETS as f64 / 2.0, "{} membership updates", left - arrived);

        // The next subscription works as usual.
        let mut next = Recorder::connect(&nodes[0]).await;
        next.subscribe("stadium").await;
        counts(1).await;
        for recorder in &staying {
            assert!(recorder.is_open(), "{}", recorder.name);
        }
    })
    .await;
}

/// Each socket was alone on its channel, so that no updates can be combined, and
/// every update takes long: a new subscriber does not queue after them.
#[tokio::test]
async fn cluster_mass_disconnect_does_not_delay_new_subscribers() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let (node, proxy, redis) = (cluster.first(), cluster.proxy(), cluster.redis());
        let caller = node.caller("1");
        let mut sockets = Recorder::connect_many(node, SOCKETS, &["stadium"]).await;
        let subscriptions = sockets.iter_mut().enumerate().map(|(n, recorder)| async move {
            let channel = format!("channel-{n}");
            recorder.subscribe(&channel).await;
        });
        join_all(subscriptions).await;
        assert_eq!(caller.subscription_count("stadium").await, SOCKETS);
        assert_eq!(occupied(redis).await, SOCKETS);

        let mut new_subscribers = Recorder::connect_many(node, 3, &[]).await;
        // Each reply is delayed by this time, in sequence: some 800 in a few
        // seconds.
        proxy.delay(Links::Scripts, Direction::Replies, Duration::from_millis(5));
        drop(sockets);
        // The node has begun to clear memberships.
        eventually("the first channel is cleared", STEP_TIMEOUT, async || match occupied(redis).await {
            SOCKETS => Err("none".to_owned()),
            _ => Ok(()),
        })
        .await;
        let arrivals = new_subscribers.iter_mut().zip(NEW_CHANNELS).map(async |(subscriber, channel)| {
            subscriber.subscribe(channel).await;
            (channel, occupied(redis).await)
        });
        let left = join_all(arrivals).await;
        println!("channels to clear when each new subscriber was confirmed: {left:?}");
        for (channel, left) in left {
            assert!(
                left > SOCKETS / 10,
                "the subscriber of {channel} was confirmed after the cleanup: {left}"
            );
        }

        proxy.heal();
        for channel in NEW_CHANNELS {
            caller.count_becomes(channel, 1).await;
        }
        eventually("all channels are cleared", STEP_TIMEOUT, async || match occupied(redis).await {
            1 => Ok(()),
            left => Err(left.to_string()),
        })
        .await;
        drop(new_subscribers);
        for channel in NEW_CHANNELS {
            caller.count_becomes(channel, 0).await;
        }
    })
    .await;
}

/// The `channel-*` channels with a subscription, according to Redis.
async fn occupied(redis: &Redis) -> usize {
    let script = "return #redis.call('KEYS', 'fanfare:*:subs:1:channel-*')";
    redis.command(&["EVAL", script, "0"]).await.integer() as usize
}
