//! Settings of one app and of the network edge, from the file and from variables.

use super::tests::{given, with_app};
use crate::app::{App, AppFeatures, AppRates, HookedEvents, OriginPattern, Rate, Webhook};
use std::time::Duration;

/// The app `7`, configured with these lines.
fn app(lines: &str) -> App {
    given(&format!("[[apps]]\nid = 7\nkey = 'k'\nsecret = 's'\n{lines}"), &[]).config().apps.remove(0)
}

fn problems(lines: &str) -> Vec<String> {
    given(&format!("[[apps]]\nid = 7\nkey = 'k'\nsecret = 's'\n{lines}"), &[]).problems()
}

fn secrets(app: &App) -> Vec<&[u8]> {
    app.secrets.iter().map(|secret| secret.reveal()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

fn per_second(count: u64) -> Option<Rate> {
    Some(Rate { count, window: SECOND })
}

#[test]
fn rates_by_default_limit_only_client_events() {
    let app = app("");
    assert_eq!(app.rates, AppRates { client_events: per_second(10), ..AppRates::default() });
    assert_eq!(app.features, AppFeatures::default());
    assert_eq!((app.limits.connections_max, app.origins, app.webhooks), (None, vec![], vec![]));
}

#[test]
fn rates_are_parsed() {
    let app = app(
        "max_connections = 500\nmax_client_events_per_second = 30\ndecay_seconds = 3\nterminate_on_limit = true\n\
                   max_backend_events_per_second = '1000'\nmax_read_requests_per_second = 50\n\
                   message_rate_limit = { enabled = true, decay_seconds = 10, terminate_on_limit = true }\n",
    );
    assert_eq!(app.limits.connections_max, Some(500));
    assert_eq!(
        app.rates,
        AppRates {
            backend_events: per_second(1_000),
            read_requests: per_second(50),
            client_events: Some(Rate { count: 30, window: 3 * SECOND }),
            client_events_terminate: true,
            messages: Some(Rate { count: 60, window: 10 * SECOND }),
            messages_terminate: true,
        }
    );
}

#[test]
fn limits_of_zero_or_minus_one_are_no_limits() {
    for none in ["0", "-1", "'-1'"] {
        let app = app(&format!(
            "max_connections = {none}\nmax_client_events_per_second = {none}\nmax_backend_events_per_second = {none}\n\
             max_read_requests_per_second = {none}\nmessage_rate_limit = {{ enabled = false, max_attempts = 5 }}\n"
        ));
        assert_eq!(app.rates, AppRates::default(), "{none}");
        assert_eq!(app.limits.connections_max, None, "{none}");
    }
    assert_eq!(app("message_rate_limit = {}").rates.messages, None);
}

#[test]
fn features_are_enabled() {
    let app = app(
        "enable_client_messages = true\nenable_user_authentication = true\nuser_authentication_timeout = 7\n\
                   enable_watchlist_events = true\nenable_subscription_count = true\ncache_ttl_in_seconds = 60\n\
                   max_presence_members_per_channel = 1000\nmax_presence_member_size_in_kb = 0.5\n",
    );
    assert_eq!(
        app.features,
        AppFeatures {
            client_events: true,
            authorization_timeout: Some(7 * SECOND),
            watchlists: true,
            subscription_counts: true,
            cache_ttl: 60 * SECOND,
        }
    );
    assert_eq!((app.limits.presence_members_max, app.limits.presence_member_bytes_max), (1_000, 512));
}

#[test]
fn message_rate_without_enabled_is_an_error() {
    assert_eq!(
        problems("message_rate_limit = { max_attempts = 0, decay = 3 }"),
        [
            "`apps[0].message_rate_limit.decay` is not a setting; the most similar is `decay_seconds` (file FILE, line 5)",
            "`apps[0].message_rate_limit.enabled` (rate limit of all messages of a connection) must be true or false; it is missing (file FILE, line 5)",
            "`apps[0].message_rate_limit.max_attempts` (rate limit of all messages of a connection) must be a whole number from 1; it is 0 (file FILE, line 5)",
        ]
    );
}

#[test]
fn secrets_begin_with_secret_and_have_no_duplicates() {
    assert_eq!(secrets(&app("secrets = ['old', 's', 'older']")), [&b"s"[..], b"old", b"older"]);
    let only = given("[[apps]]\nid = 7\nkey = 'k'\nsecrets = ['new', 'old']\n", &[]).config();
    assert_eq!(secrets(&only.apps[0]), [&b"new"[..], b"old"]);
    let env = given("", &with_app(&[("FANFARE_APP_SECRETS", "older,oldest")])).config();
    assert_eq!(secrets(&env.apps[0]), [&b"hush"[..], b"older", b"oldest"]);
    let none = given("[[apps]]\nid = 7\nkey = 'k'\nsecrets = []\n", &[]).problems();
    assert_eq!(
        none,
        ["`apps[0].secret` is not set: add it to [[apps]], or set FANFARE_APP_SECRET (file FILE, line 1)"]
    );
    let many = problems("secrets = ['1', '2', '3', '4', '5', '6', '7', '8']");
    assert_eq!(many, ["`apps[0].secrets` has more than 8 secrets, with `secret` (file FILE, line 5)"]);
}

#[test]
fn origins_are_parsed() {
    let origins =
        |lines: &str| -> Vec<String> { app(lines).origins.into_iter().map(|OriginPattern(it)| it).collect() };
    assert_eq!(
        origins("allowed_origins = ['https://A.example', '*.b.example']"),
        ["https://a.example", "*.b.example"]
    );
    assert!(origins("allowed_origins = '*'").is_empty());
    let wrong = problems("allowed_origins = ['https://a.example/']");
    assert!(
        wrong[0].contains("`apps[0].allowed_origins`") && wrong[0].contains("without a path"),
        "{wrong:?}"
    );
}

#[test]
fn webhooks_with_names_of_soketi_or_sockudo_are_parsed() {
    let app = app("[[apps.webhooks]]\nurl = 'https://a.example/hook?token=x'\n\
                   [[apps.webhooks]]\nurl = 'http://b.example:8080'\nevent_types = ['channel_occupied', 'channel_vacated']\n\
                   headers = { Authorization = 'Bearer x', X-Number = 7 }\n\
                   filter = { channel_name_starts_with = 'private-', channel_suffix = '-x' }\n");
    let bare = |url: &str| Webhook {
        url: url.into(),
        events: HookedEvents::ALL,
        headers: vec![],
        channel_prefix: None,
        channel_suffix: None,
    };
    let second = Webhook {
        events: HookedEvents(0b11),
        headers: vec![("Authorization".into(), "Bearer x".into()), ("X-Number".into(), "7".into())],
        channel_prefix: Some("private-".into()),
        channel_suffix: Some("-x".into()),
        ..bare("http://b.example:8080")
    };
    assert_eq!(app.webhooks, [bare("https://a.example/hook?token=x"), second]);
    let listed = "[{ url = 'http://c.example', event_types = ['cache_miss'] }]";
    let env = given("", &with_app(&[("FANFARE_APP_WEBHOOKS", listed)])).config();
    assert_eq!(env.apps[0].webhooks, [Webhook { events: HookedEvents(1 << 5), ..bare("http://c.example") }]);
}

#[test]
fn webhook_mistakes_are_all_reported_with_their_path() {
    let mut found = problems(
        "[[apps.webhooks]]\nurl = 'ftp://a'\nevent_types = ['channel_ocupied']\n\
                          [[apps.webhooks]]\nlambda_function = 'f'\n\
                          [[apps.webhooks]]\nurls = 'http://a'\nheaders = { X-Pusher-Signature = 'x' }\n\
                          filter = { channel_pattern = 'x', channel_prefix = 'a', channel_name_starts_with = 'b' }\n",
    );
    found.sort();
    let doc = "(endpoints that receive webhook events of the app)";
    let expect = [
        format!(
            "`apps[0].webhooks[0].event_types` {doc} must be a list of channel_occupied, channel_vacated, member_added, \
                 member_removed, client_event, cache_miss, subscription_count; it is [\"channel_ocupied\"] (file FILE, line 5)"
        ),
        format!(
            "`apps[0].webhooks[0].url` {doc} must be a URL that begins with http:// or https://, without a user or a fragment; \
                 it is \"ftp://a\" (file FILE, line 5)"
        ),
        "`apps[0].webhooks[1].lambda_function` is not supported by this version (file FILE, line 5)".into(),
        format!(
            "`apps[0].webhooks[2].filter.channel_name_starts_with` {doc} must be left out where there is `channel_prefix`; \
                 it is there too (file FILE, line 5)"
        ),
        "`apps[0].webhooks[2].filter.channel_pattern` is not supported by this version (file FILE, line 5)"
            .into(),
        format!(
            "`apps[0].webhooks[2].headers.X-Pusher-Signature` {doc} must be a table of header names and texts, \
                 none of them X-Pusher-…; it is [hidden] (file FILE, line 5)"
        ),
        format!(
            "`apps[0].webhooks[2].url` {doc} must be a URL that begins with http:// or https://, without a user or a fragment; \
                 it is missing (file FILE, line 5)"
        ),
        "`apps[0].webhooks[2].urls` is not a setting; the most similar is `url` (file FILE, line 5)".into(),
    ];
    assert_eq!(found, expect);
}

#[test]
fn webhook_credentials_are_hidden_in_output() {
    let given = given(
        "[[apps]]\nid = 7\nkey = 'k'\nsecrets = ['hush1', 'hush2']\n\
         webhooks = [{ url = 'http://a/?token=hush3', headers = { Authorization = 'hush4' } }, \
         { url = 'https://b:8443/hush5/' }, { url = 'https://c/' }, { url = 'https://d?hush6' }]\n",
        &[],
    );
    let shown = format!("{}{:?}{:?}", given.printed(), given.config(), given.load());
    assert!(!shown.contains("hush"), "{shown}");
    assert!(
        shown.contains(
            "apps[0].webhooks = [{ url = \"http://a/[hidden]\", headers = { Authorization = [hidden] } }, \
             { url = \"https://b:8443/[hidden]\" }, { url = \"https://c/\" }, { url = \"https://d/[hidden]\" }]"
        ),
        "{shown}"
    );
}

#[test]
fn refused_webhook_url_is_reported_with_its_host_only() {
    let refused = |url: &str| problems(&format!("[[apps.webhooks]]\nurl = '{url}'\n")).remove(0);
    let hidden =
        ["https://ann:hush@a/b", "https://hush@a", "https://ann:hush/x@a", "hush", "ftp://a?q=hush@b"];
    let with_host = ["ftp://a/hush", "https://a/?hush#x", "ftp://a#hush"];
    for (urls, shown) in [(&hidden[..], "it is [hidden]"), (&with_host, "://a/[hidden]")] {
        for url in urls {
            let text = refused(url);
            assert!(text.contains(shown) && !text.contains("hush"), "{text}");
        }
    }
}

#[test]
fn path_prefix_and_trusted_proxies_are_parsed() {
    let file = "path_prefix = '/realtime'\ntrusted_proxies = ['10.0.0.0/8', '192.0.2.7']\n";
    let config = given(file, &with_app(&[])).config();
    assert_eq!(config.path_prefix, "/realtime");
    let networks: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32"]);
    let wrong = given("path_prefix = '/realtime/'\ntrusted_proxies = ['proxy']\n", &with_app(&[])).problems();
    assert!(wrong[0].contains("`path_prefix`") && wrong[0].contains("line 1"), "{wrong:?}");
    assert!(wrong[1].contains("`trusted_proxies`") && wrong[1].contains("\"proxy\""), "{wrong:?}");
}

#[test]
fn apps_may_be_empty_with_redis_only() {
    let config = given("redis = 'redis://localhost'", &[]).config();
    assert!(config.apps.is_empty());
    assert!(given("", &[]).problems()[0].starts_with("no app is configured"));
}
