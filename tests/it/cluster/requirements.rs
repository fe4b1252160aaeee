//! What Redis will never permit is reported at start; a node that cannot work does not wait.

use crate::support::{Redis, STEP_TIMEOUT, Server, bounded, eventually};

const USER: &str = "limited";
const PASSWORD: &str = "hush-of-redis";

/// A Redis with a user that has these rules, and the URL for it.
async fn limited(rules: &[&str]) -> (Redis, String) {
    let redis = Redis::start().await;
    let password = format!(">{PASSWORD}");
    let rules = [&["ACL", "SETUSER", USER, "on", &password], rules].concat();
    assert_eq!(redis.command(&rules).await.text(), "OK");
    let url = redis.url().replace("redis://", &format!("redis://{USER}:{PASSWORD}@"));
    (redis, url)
}

#[tokio::test]
async fn forbidden_commands_are_named_at_start() {
    bounded(async {
        for (rule, command) in [
            ("-subscribe", "SUBSCRIBE"),
            ("-publish", "PUBLISH"),
            ("-client", "CLIENT ID"),
            ("-xadd", "XADD"),
            ("-srandmember", "SRANDMEMBER"),
            ("-evalsha", "renew_node"),
            ("-del", "DEL"),
            ("-info", "INFO server"),
        ] {
            let (_redis, url) = limited(&["~*", "&*", "+@all", rule]).await;
            let (status, output) = Server::builder().redis_url(&url).start_refused().await;
            assert!(!status.success(), "{rule}: {output}");
            assert!(output.contains(command) && output.contains("permission"), "{rule}: {output}");
            assert!(!output.contains(PASSWORD), "{rule}: {output}");
        }
    })
    .await;
}

#[tokio::test]
async fn forbidden_keys_and_topics_are_named_at_start() {
    bounded(async {
        let (_redis, url) = limited(&["~other:*", "&*", "+@all"]).await;
        let (status, output) = Server::builder().redis_url(&url).start_refused().await;
        assert!(!status.success() && output.contains("permission"), "{output}");
        let (_redis, url) = limited(&["~*", "resetchannels", "+@all"]).await;
        let (status, output) = Server::builder().redis_url(&url).start_refused().await;
        assert!(!status.success(), "{output}");
        assert!(output.contains("it refuses PUBLISH, SUBSCRIBE: NOPERM"), "{output}");
        // The permissions that the documentation names are enough.
        let (_redis, url) =
            limited(&["~fanfare:*", "&fanfare:*", "+@all", "-@admin", "-@dangerous", "+info"]).await;
        Server::builder().redis_url(&url).start().await.browser("key1").await.subscribe("news").await;
    })
    .await;
}

/// Every character that a password can have, as the documentation says to write it.
#[tokio::test]
async fn passwords_with_special_characters_are_accepted() {
    bounded(async {
        for (password, written) in
            [("a$b\\c", "a$b\\c"), ("#?/@:%&+=", "%23%3F%2F%40:%25&+="), ("éü", "éü"), ("%41", "%2541")]
        {
            let redis = Redis::start().await;
            redis.command(&["CONFIG", "SET", "requirepass", password]).await;
            let url = redis.url().replace("redis://", &format!("redis://:{written}@"));
            Server::builder()
                .env("FANFARE_REDIS", &url)
                .start()
                .await
                .browser("key1")
                .await
                .subscribe("news")
                .await;
        }
    })
    .await;
}

/// The password is changed, in Redis and in the file, while the node runs.
#[tokio::test]
async fn credentials_in_a_file_are_read_at_each_connection() {
    bounded(async {
        let (redis, url) = limited(&["~*", "&*", "+@all"]).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("redis-url");
        std::fs::write(&file, format!("{url}\n")).unwrap();
        let node = Server::builder().env("FANFARE_REDIS_FILE", file.to_str().unwrap()).start().await;
        let mut client = node.browser("key1").await;
        client.subscribe("news").await;
        let rotated = "rotated";
        std::fs::write(&file, url.replace(PASSWORD, rotated)).unwrap();
        redis.command(&["ACL", "SETUSER", USER, "resetpass", &format!(">{rotated}")]).await;
        assert!(redis.command(&["CLIENT", "KILL", "USER", USER]).await.integer() > 0);
        let reconnects = async || match node.metrics().await.sum("fanfare_redis_reconnects_total") {
            reconnects if reconnects >= 4.0 => Ok(()),
            reconnects => Err(reconnects.to_string()),
        };
        eventually("new connections", STEP_TIMEOUT, reconnects).await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
        node.caller("1").publish("news", "e", "x").await;
        client.find_event("e").await;

        // A file that cannot be used is named, without its content.
        std::fs::write(&file, format!("http://{rotated}")).unwrap();
        redis.command(&["CLIENT", "KILL", "USER", USER]).await;
        let line = node.logged("connection to Redis lost").await;
        node.logged("the file of the Redis URL has no valid URL").await;
        assert!(!node.log().contains(rotated), "{line}");
    })
    .await;
}
