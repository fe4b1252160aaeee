//! Tokens of a resume (docs/resume.md, *Tokens*): a client receives no event from before its own
//! subscription, or from before the authorization of another subscriber.

use serde_json::{Value, json};

use crate::support::{AppSpec, Backend, Browser, Caller, Cluster, ResumingClient, bounded, on_both_backends};

on_both_backends![
    resume_without_the_token_of_the_subscriber_is_declined,
    resume_before_the_number_of_the_token_is_declined,
    resume_of_a_member_requires_the_token_of_its_user,
    resume_with_the_token_of_another_channel_is_declined,
];

async fn cluster(backend: Backend) -> Cluster {
    Cluster::builder(backend).app(AppSpec::new("1")).app(AppSpec::new("2")).start().await
}

/// The data of a confirmation.
#[derive(Debug)]
struct Confirmed(Value);

impl Confirmed {
    fn is_resumed(&self) -> bool {
        self.0["resumed"].as_bool().unwrap_or_else(|| panic!("{}", self.0))
    }

    /// The member `resume` for this position, without `token` and `socket_id`.
    fn position(&self) -> Value {
        json!({ "epoch": self.0["epoch"], "seq": self.0["seq"] })
    }

    fn token(&self) -> Value {
        assert!(self.0["token"].is_string(), "{}", self.0);
        self.0["token"].clone()
    }
}

fn with(mut resume: Value, member: &str, value: impl Into<Value>) -> Value {
    resume[member] = value.into();
    resume
}

async fn subscribe(browser: &mut Browser, channel: &str, resume: &Value) -> Confirmed {
    Confirmed(browser.subscribe_with(channel, json!({ "resume": resume })).await.data_json())
}

/// Subscribes with a position that is not resumed; the next event is one published afterwards.
async fn expect_declined(browser: &mut Browser, caller: &Caller, channel: &str, resume: Value) {
    let confirmed = subscribe(browser, channel, &resume).await;
    assert!(!confirmed.is_resumed(), "{resume}: {confirmed:?}");
    expect_only_live(browser, caller, channel, &resume).await;
}

async fn expect_only_live(browser: &mut Browser, caller: &Caller, channel: &str, resume: &Value) {
    caller.publish(channel, "live", "1").await;
    let frame = loop {
        match browser.next().await {
            position if position.event == "pusher:position" => {}
            frame => break frame,
        }
    };
    assert_eq!(frame.event, "live", "{resume}: {}", frame.text);
}

/// A channel with one event, a subscriber from then on, and two more events.
async fn subscriber_of_secrets(cluster: &Cluster, channel: &str) -> (String, Confirmed) {
    let caller = cluster.caller("1");
    caller.publish(channel, "first", "0").await;
    let mut ann = cluster.first().browser("key1").await;
    let confirmed = subscribe(&mut ann, channel, &json!(true)).await;
    for number in 1..3 {
        caller.publish(channel, "secret", &number.to_string()).await;
        ann.expect_event(channel, "secret").await;
    }
    (ann.socket_id().to_owned(), confirmed)
}

async fn resume_without_the_token_of_the_subscriber_is_declined(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    for channel in ["private-news", "private-encrypted-news"] {
        let (socket, ann) = subscriber_of_secrets(&cluster, channel).await;
        let token = ann.token();
        let forged = token.as_str().expect("a token").replacen("1.", "1.1", 1);
        let named = with(ann.position(), "socket_id", socket.as_str());
        for resume in [
            ann.position(),
            named.clone(),
            with(ann.position(), "token", token.clone()),
            with(with(ann.position(), "token", token.clone()), "socket_id", "1.2"),
            with(named.clone(), "token", forged),
            with(named.clone(), "token", ""),
            with(named.clone(), "token", "2.0.AAAAAAAAAAAAAAAAAAAAAA"),
        ] {
            let mut bob = cluster.second().browser("key1").await;
            expect_declined(&mut bob, &caller, channel, resume).await;
        }
        // The subscriber itself, on its next connection.
        let mut ann = cluster.second().browser("key1").await;
        assert!(subscribe(&mut ann, channel, &with(named, "token", token)).await.is_resumed());
        assert_eq!(ann.next().await.event, "secret");
    }
}

async fn resume_before_the_number_of_the_token_is_declined(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    for channel in ["news", "private-news"] {
        let (_, ann) = subscriber_of_secrets(&cluster, channel).await;
        let mut bob = cluster.first().browser("key1").await;
        let own = subscribe(&mut bob, channel, &json!(true)).await;
        let socket = bob.socket_id().to_owned();
        let resume = |position| with(with(position, "token", own.token()), "socket_id", socket.as_str());

        let mut back = cluster.second().browser("key1").await;
        expect_declined(&mut back, &caller, channel, resume(ann.position())).await;
        let mut back = cluster.second().browser("key1").await;
        let confirmed = subscribe(&mut back, channel, &resume(own.position())).await;
        assert!(confirmed.is_resumed(), "{channel}");
        assert_eq!(back.next().await.event, "live");
        // The same on one connection.
        let earlier = subscribe(&mut back, channel, &resume(ann.position())).await;
        assert!(!earlier.is_resumed(), "{channel}");
        expect_only_live(&mut back, &caller, channel, &ann.position()).await;
    }
}

async fn resume_of_a_member_requires_the_token_of_its_user(backend: Backend) {
    let cluster = cluster(backend).await;
    let caller = cluster.caller("1");
    let join = async |browser: &mut Browser, user_id: &str, resume: Value| {
        let channel_data = json!({ "user_id": user_id }).to_string();
        let socket = browser.socket_id().to_owned();
        let text = fanfare::auth::subscription_text(&socket, "presence-room", Some(&channel_data));
        let auth = browser.sign_text(&text);
        let data = json!({ "channel": "presence-room", "auth": auth, "channel_data": channel_data, "resume": resume });
        browser.subscribe_raw(data).await;
        Confirmed(browser.confirmed("presence-room").await.data_json())
    };
    caller.publish("presence-room", "first", "0").await;
    let mut first = cluster.first().browser("key1").await;
    let ann = join(&mut first, "ann", json!(true)).await;
    caller.publish("presence-room", "secret", "1").await;
    first.expect_event("presence-room", "secret").await;
    let resume = with(ann.position(), "token", ann.token());

    let mut other = cluster.second().browser("key1").await;
    let named = with(resume.clone(), "socket_id", first.socket_id());
    assert!(!join(&mut other, "bob", named).await.is_resumed());
    // Another connection of the user needs no socket id.
    let mut second = cluster.second().browser("key1").await;
    assert!(join(&mut second, "ann", resume).await.is_resumed());
    assert_eq!(second.find_event("secret").await.data, json!("1"));
}

async fn resume_with_the_token_of_another_channel_is_declined(backend: Backend) {
    let cluster = cluster(backend).await;
    let (_, news) = subscriber_of_secrets(&cluster, "news").await;
    let (_, other) = subscriber_of_secrets(&cluster, "other").await;
    let swapped = with(other.position(), "token", news.token());
    let mut bob = cluster.second().browser("key1").await;
    expect_declined(&mut bob, &cluster.caller("1"), "other", swapped).await;

    // The channel of the same name in another app.
    let caller = cluster.caller("2");
    caller.publish("other", "first", "0").await;
    let mut ann = cluster.first().browser("key2").await;
    let position = subscribe(&mut ann, "other", &json!(true)).await.position();
    caller.publish("other", "secret", "1").await;
    ann.expect_event("other", "secret").await;
    let mut bob = cluster.second().browser("key2").await;
    expect_declined(&mut bob, &caller, "other", with(position, "token", other.token())).await;
}

/// The nodes of a cluster have one key, also those that start later or after a loss of data.
#[tokio::test]
async fn cluster_resume_tokens_are_valid_on_nodes_that_start_later() {
    bounded(async {
        let cluster = cluster(Backend::Redis).await;
        let caller = cluster.caller("1");
        let mut client = ResumingClient::on(cluster.first(), "news", json!({})).await;
        for loses_data in [false, true] {
            if loses_data {
                cluster.redis().command(&["FLUSHALL"]).await;
                cluster.caller("1").count_becomes("news", 1).await;
            }
            caller.publish("news", "e", "1").await;
            if loses_data {
                assert!(client.position().await, "a position notice with `missed`");
            }
            client.events(&["1".to_owned()]).await;
            let state = client.state.clone();
            caller.publish("news", "e", "2").await;
            client.events(&["2".to_owned()]).await;
            let later = cluster.start_node(0).await;
            let resume = state.resume();
            let (mut back, resumed) =
                ResumingClient::reconnect(&later, "news", json!({}), state, resume).await;
            assert!(resumed, "loses data: {loses_data}");
            back.events(&["2".to_owned()]).await;
        }
    })
    .await;
}
