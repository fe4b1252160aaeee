//! Mass arrivals and departures are work in bounded steps: the cluster is told
//! of many with few words, and nobody who comes meanwhile has to wait for it.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::{Links, PATIENCE, Proxy, Redis, Server, Way, eventually};
use crate::witness::{Witness, within};

const CROWD: usize = 1_500;
/// Of them, when the others hang up.
const STAY: usize = 100;
/// Where newcomers go: to the channel that all have left, to one that is still to
/// be tidied up, and to one that has nothing to do with it.
const NEWCOMERS: [&str; 3] = ["stadium", "seat-1400", "elsewhere"];
/// Of Redis, one after another, while a crowd acts: what nodes say by themselves
/// still fits in between.
const ANSWERS_AFTER: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(120);

/// All ask at once, when all are connected: the first word to Redis is under way
/// until the last of them has asked.
async fn ask_at_once(crowd: &mut [Witness], channel: &str, proxy: &Proxy) {
    proxy.delay(Links::Scripts, Way::Replies, ANSWERS_AFTER);
    join_all(crowd.iter_mut().map(|witness| witness.ask_for(channel))).await;
    join_all(crowd.iter_mut().map(Witness::settle)).await;
    proxy.heal();
    for witness in crowd {
        witness.until("its confirmation", PATIENCE, |record| record.confirmations(channel) == 1).await;
    }
}

#[tokio::test]
async fn cluster_is_told_of_a_crowd_in_few_words() {
    within(LIMIT, async {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node = Server::builder();
        let nodes = [node.clone().redis_url(&proxy.url()).start().await, node.redis(&redis).start().await];
        let assertions = async || nodes[0].metrics().await.sum("fanfare_assertions_total");
        let counts = async |count: usize| {
            for node in &nodes {
                node.caller("1").count_becomes("stadium", count).await;
            }
        };
        let mut crowd = Witness::several(&nodes[0], CROWD, &[]).await;
        let before = assertions().await;
        ask_at_once(&mut crowd, "stadium", &proxy).await;
        // Exact as soon as all are confirmed.
        for node in &nodes {
            assert_eq!(node.caller("1").subscription_count("stadium").await, CROWD);
        }
        let arrived = assertions().await;
        println!("{} assertions for {CROWD} arrivals", arrived - before);
        assert!(arrived - before <= CROWD as f64 / 5.0, "{} assertions", arrived - before);

        nodes[1].caller("1").publish("stadium", "e", "goal").await;
        for witness in &crowd {
            witness.heard("stadium", "goal").await;
            assert_eq!(witness.run("stadium"), ["goal"], "{}", witness.name);
        }

        // Some leave in words, the others vanish at once. They end one after
        // another, while the test hangs up: fewer of them fit into one word.
        let mut stay = crowd.split_off(CROWD - STAY);
        for witness in &mut stay {
            witness.leave("stadium").await;
        }
        proxy.delay(Links::Scripts, Way::Replies, ANSWERS_AFTER);
        drop(crowd);
        let connected = async || match nodes[0].metrics().await.sum("fanfare_connections") as usize {
            STAY => Ok(()),
            count => Err(count.to_string()),
        };
        eventually("the others hung up", PATIENCE, connected).await;
        proxy.heal();
        counts(0).await;
        let left = assertions().await;
        println!("{} assertions for {CROWD} departures", left - arrived);
        assert!(left - arrived <= CROWD as f64 / 2.0, "{} assertions", left - arrived);

        // And the next one is served as ever.
        let mut next = Witness::connect(&nodes[0]).await;
        next.subscribe("stadium").await;
        counts(1).await;
        for witness in &stay {
            assert!(witness.is_open(), "{}", witness.name);
        }
    })
    .await;
}

/// Each of the crowd was alone on its channel, so nothing can be told together,
/// and every word to Redis takes long: a newcomer does not queue behind them.
#[tokio::test]
async fn cluster_crowd_that_vanishes_keeps_nobody_waiting() {
    within(LIMIT, async {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node = Server::builder().redis_url(&proxy.url()).start().await;
        let caller = node.caller("1");
        let mut crowd = Witness::several(&node, CROWD, &["stadium"]).await;
        let asked = crowd.iter_mut().enumerate().map(|(n, witness)| async move {
            let seat = format!("seat-{n}");
            witness.subscribe(&seat).await;
        });
        join_all(asked).await;
        assert_eq!(caller.subscription_count("stadium").await, CROWD);
        assert_eq!(occupied(&redis).await, CROWD);

        let mut newcomers = Witness::several(&node, 3, &[]).await;
        // Each reply takes this long, one after another: some 800 in a second.
        proxy.delay(Links::Scripts, Way::Replies, Duration::from_millis(5));
        drop(crowd);
        // The clean-up has begun.
        eventually("the first seat left", PATIENCE, async || match occupied(&redis).await {
            CROWD => Err("none".to_owned()),
            _ => Ok(()),
        })
        .await;
        let arrivals = newcomers.iter_mut().zip(NEWCOMERS).map(|(newcomer, channel)| {
            let redis = &redis;
            async move {
                newcomer.subscribe(channel).await;
                (channel, occupied(redis).await)
            }
        });
        let left = join_all(arrivals).await;
        println!("seats that were still to be left when each newcomer was in: {left:?}");
        for (channel, left) in left {
            assert!(left > CROWD / 10, "whoever came to {channel} was served when it was all over: {left}");
        }

        proxy.heal();
        for channel in NEWCOMERS {
            caller.count_becomes(channel, 1).await;
        }
        eventually("all seats left", PATIENCE, async || match occupied(&redis).await {
            1 => Ok(()),
            left => Err(left.to_string()),
        })
        .await;
        drop(newcomers);
        for channel in NEWCOMERS {
            caller.count_becomes(channel, 0).await;
        }
    })
    .await;
}

/// Seats with a member, as Redis has it.
async fn occupied(redis: &Redis) -> usize {
    let script = "return #redis.call('KEYS', 'fanfare:*:subs:1:seat-*')";
    redis.command(&["EVAL", script, "0"]).await.integer() as usize
}
