//! Keys of a wrong type, as after a mistake with another tool.

use super::calls::{
    Batch, Call, NODES, Update, charge, claim, control_entry, fence, hold, list, mark_swept, open_epoch,
    probe, read_cached, read_log, read_log_since, read_outbox, renew, rules, settle, switch,
};
use super::source::all;
use super::stage::{Stage, id};
use crate::support::bounded;

/// Calls of every script, for a state in which each uses all of its keys.
fn calls() -> Vec<Call> {
    let all = ["channel_occupied", "channel_vacated", "member_added", "member_removed", "cache_miss"];
    let rules = rules(&all, true, true);
    let subscriptions = |node, count| Update::new("a", node, count).with(&rules).wanting_last().call();
    let members =
        |count| Update::members("presence-a", NODES[0], count, &[("ann", count)]).with(&rules).call();
    vec![
        Batch::new(id(2), "a", "2").and("b", &["3"]).wanting_counts().cached(9).charged(1, 9, 9).call(),
        Batch::of_chains(id(2), "a", 1, &[("A", "2"), ("B", "3")]).wanting_counts().charged(1, 9, 9).call(),
        control_entry("a", 2, b"", true, 0),
        switch("a", false),
        subscriptions(NODES[0], 2),
        subscriptions(NODES[0], 0),
        members(2),
        members(0),
        settle("a", "vacated 1:a", 10),
        settle("a", "count 1:a", 10),
        settle("a", "removed 1:a ann", 10),
        claim(NODES[0], 1_000, false),
        read_outbox(NODES[0], "-", 10),
        list("-", "+", 10),
        read_cached("a"),
        charge(1, 9, 9),
        hold(NODES[0], 0, 1, 10),
        read_log("a", id(1)),
        read_log_since("a", 1, 1),
        open_epoch("a", 1, 1),
        renew("n1", true),
        renew("n1", false),
        fence("n1", "1"),
        mark_swept("n1"),
        probe(),
    ]
}

#[tokio::test]
async fn key_of_wrong_type_is_an_error_and_nothing_is_written() {
    bounded(async {
        let mut stage = Stage::start().await;
        let calls = calls();
        for script in all() {
            assert!(calls.iter().any(|call| call.script == script.name), "{} is never called", script.name);
        }
        for call in &calls {
            for wrong in &call.keys {
                stage.redis.command(&["FLUSHALL"]).await;
                stage.published(&Batch::new(id(1), "a", "1")).await;
                for node in [NODES[0], NODES[1]] {
                    stage.total("a", node, 1).await;
                }
                stage.run(&renew("n1", true)).await;
                for transition in ["vacated 1:a", "count 1:a", "removed 1:a ann"] {
                    stage.redis.command(&["ZADD", "due", "1", transition]).await;
                }
                stage.redis.command(&["HSET", "consumer", "node", NODES[0], "until", "9999999999999"]).await;
                stage.redis.command(&["DEL", wrong]).await;
                let texts = ["rate", "tokens", "seen", "schema", "probe"];
                let is_text = texts.contains(&wrong.as_str()) || wrong.starts_with("swept");
                let command = if is_text { "RPUSH" } else { "SET" };
                stage.redis.command(&[command, wrong, "text"]).await;
                stage.assert_refused(call, "WRONGTYPE").await;
            }
        }
    })
    .await;
}

/// A text that no script has written is not accepted as a number.
#[tokio::test]
async fn rate_that_is_not_a_number_is_an_error() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.redis.command(&["SET", "rate", "text", "PX", "60000"]).await;
        let batch = Batch::new(id(1), "a", "1").charged(1, 9, 60_000);
        for call in [charge(1, 9, 60_000), batch.call()] {
            stage.assert_refused(&call, "ERR").await;
        }
    })
    .await;
}
