//! Redis restarts from an older file, or a replica without the last writes is promoted: departures are
//! lost, and what was counted is counted again.

use std::time::Duration;

use serde_json::json;

use crate::support::{AppSpec, Backend, Caller, Cluster, Redis, STEP_TIMEOUT, eventually, within};

/// Time in which a cluster agrees with its nodes again.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

async fn occupied(caller: &Caller) -> Result<String, String> {
    let answer = caller.get("/channels", &[]).await;
    if answer.status == 200 { Ok(answer.json()["channels"].to_string()) } else { Err(answer.text()) }
}

/// No channel is occupied, and no key names a member or a subscription.
async fn nothing_is_left(caller: &Caller, redis: &Redis) {
    eventually("no occupied channel", HEALED_WITHIN, async || match occupied(caller).await? {
        channels if channels == "{}" => Ok(()),
        channels => Err(channels),
    })
    .await;
    eventually("no membership in Redis", HEALED_WITHIN, async || {
        let script = "local found = {}
            for _, kind in ipairs({ 'subs', 'users', 'channels', 'counts', 'occupied', 'connections' }) do
              for _, key in ipairs(redis.call('KEYS', 'fanfare:*:' .. kind .. ':*')) do
                found[#found + 1] = key
              end
            end
            return redis.status_reply(table.concat(found, ' '))";
        match redis.command(&["EVAL", script, "0"]).await.text() {
            keys if keys.is_empty() => Ok(()),
            keys => Err(keys),
        }
    })
    .await;
}

/// The nodes live on, and have forgotten the channels.
#[tokio::test]
async fn cluster_departures_that_redis_has_lost_are_repeated() {
    within(Duration::from_secs(90), async {
        let mut cluster = Cluster::start(Backend::Redis).await;
        let caller = cluster.caller("1");
        let mut clients = Vec::new();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let mut client = node.browser("key1").await;
            client.subscribe(&format!("own-{number}")).await;
            client.subscribe("shared").await;
            client.join("presence-room", &format!("user-{number}")).await;
            clients.push(client);
        }
        // The nodes' own numbers of channels, which they count every few seconds.
        let channels_are = async |is_expected: fn(f64) -> bool| {
            eventually("the number of channels", Duration::from_secs(30), async || {
                let mut channels = Vec::new();
                for node in &cluster.nodes {
                    channels.push(node.metrics().await.sum("fanfare_channels"));
                }
                if channels.iter().all(|it| is_expected(*it)) { Ok(()) } else { Err(format!("{channels:?}")) }
            })
            .await;
        };
        channels_are(|channels| channels > 0.0).await;
        cluster.redis().command(&["SAVE"]).await;
        for client in clients {
            client.close().await;
        }
        nothing_is_left(&caller, cluster.redis()).await;
        channels_are(|channels| channels == 0.0).await;
        cluster.redis_mut().restart().await;
        eventually("the older file", STEP_TIMEOUT, async || match occupied(&caller).await? {
            channels if channels.contains("presence-room") => Ok(()),
            channels => Err(channels),
        })
        .await;
        nothing_is_left(&caller, cluster.redis()).await;
    })
    .await;
}

/// Redis counts a connection that has ended: the limit must not refuse others for it.
#[tokio::test]
async fn cluster_connections_that_redis_has_not_seen_end_are_not_counted() {
    within(Duration::from_secs(60), async {
        let app = AppSpec::new("1").set("max_connections", 1);
        let mut cluster = Cluster::builder(Backend::Redis).app(app).start().await;
        let client = cluster.first().browser("key1").await;
        cluster.redis().command(&["SAVE"]).await;
        client.close().await;
        // Permitted when the end of the first is reported.
        let connects = async |cluster: &Cluster| {
            let mut client = cluster.second().connect("/app/key1?protocol=7").await;
            match client.next().await {
                frame if frame.event == "pusher:connection_established" => {
                    client.close().await;
                    Ok(())
                }
                frame => Err(frame.data.to_string()),
            }
        };
        let what = "a connection in place of the first";
        eventually(what, STEP_TIMEOUT, async || connects(&cluster).await).await;
        let no_connections = async || match connections(&cluster).await {
            keys if keys.is_empty() => Ok(()),
            keys => Err(keys),
        };
        eventually("no reported connection", STEP_TIMEOUT, no_connections).await;
        cluster.redis_mut().restart().await;
        assert!(!connections(&cluster).await.is_empty(), "the file has no connection");
        eventually("a connection after the restart", HEALED_WITHIN, async || connects(&cluster).await).await;
    })
    .await;
}

async fn connections(cluster: &Cluster) -> String {
    cluster.redis().command(&["KEYS", "fanfare:*connections*"]).await.text()
}

/// Nothing is lost, and nodes report everything under other names: no count is ever higher or lower.
#[tokio::test]
async fn cluster_counts_are_right_while_nodes_report_again() {
    const CLIENTS: usize = 5;
    within(Duration::from_secs(60), async {
        let mut cluster = Cluster::builder(Backend::Redis).durable().start().await;
        let caller = cluster.caller("1");
        let mut clients = Vec::new();
        for number in 0..CLIENTS * 2 {
            let mut client = cluster.nodes[number % 2].browser("key1").await;
            client.subscribe("news").await;
            client.join("presence-room", &format!("user-{}", number / 2)).await;
            clients.push(client);
        }
        let before = cluster.redis().command(&["HKEYS", "fanfare:{nodes}:leases"]).await.text();
        cluster.redis_mut().restart().await;
        let read = async |path: &str, info: &str| {
            let answer = caller.get(path, &[("info", info)]).await;
            (answer.status == 200).then(|| answer.json()[info].clone())
        };
        let swept = "return #redis.call('KEYS', 'fanfare:*:swept:*')";
        eventually("the sweep of the earlier names", HEALED_WITHIN, async || {
            for _ in 0..20 {
                if let Some(count) = read("/channels/news", "subscription_count").await {
                    assert_eq!(count, json!(CLIENTS * 2));
                }
                if let Some(count) = read("/channels/presence-room", "user_count").await {
                    assert_eq!(count, json!(CLIENTS));
                }
            }
            let swept = cluster.redis().command(&["EVAL", swept, "0"]).await.integer();
            let now = cluster.redis().command(&["HKEYS", "fanfare:{nodes}:leases"]).await.text();
            let are_renamed = before.split(' ').all(|name| !now.contains(name));
            if swept > 0 && are_renamed { Ok(()) } else { Err(format!("{swept} swept; {before}, now {now}")) }
        })
        .await;
    })
    .await;
}
