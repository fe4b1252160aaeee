//! Tests of [`load`]: from flags, environment and a file to a configuration or to all
//! error messages.

use std::io::Write;

use super::keys::{KEYS, Kind, Scope};
use super::*;
use crate::app::AppLimits;
use crate::limits;

pub(super) struct Given {
    flags: Flags,
    environment: Environment,
    /// Deleted when it is dropped.
    _file: Option<tempfile::NamedTempFile>,
}

pub(super) fn given(file: &str, variables: &[(&str, &str)]) -> Given {
    let mut flags = Flags::default();
    let file = (!file.is_empty()).then(|| {
        let mut written = tempfile::NamedTempFile::new().expect("a temporary file");
        written.write_all(file.as_bytes()).expect("written");
        flags.config = Some(written.path().to_owned());
        written
    });
    Given { flags, environment: variables.iter().copied().collect(), _file: file }
}

impl Given {
    fn dev(mut self) -> Given {
        self.flags.dev = true;
        self
    }

    pub(super) fn load(&self) -> Loaded {
        load(&self.flags, &self.environment)
    }

    pub(super) fn config(&self) -> Config {
        self.load().config.expect("a valid configuration")
    }

    /// Every problem, with the name of the temporary file as `FILE`.
    pub(super) fn problems(&self) -> Vec<String> {
        let problems = self.load().config.expect_err("an invalid configuration");
        problems.0.iter().map(|it| self.stable(&it.to_string())).collect()
    }

    pub(super) fn printed(&self) -> String {
        self.stable(&self.load().settings.to_string())
    }

    fn stable(&self, text: &str) -> String {
        match &self.flags.config {
            Some(path) => text.replace(&path.display().to_string(), "FILE"),
            None => text.to_owned(),
        }
    }
}

const APP: &[(&str, &str)] =
    &[("FANFARE_APP_ID", "7"), ("FANFARE_APP_KEY", "public"), ("FANFARE_APP_SECRET", "hush")];

pub(super) fn with_app<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [APP, variables].concat()
}

#[test]
fn defaults_equal_those_of_app_limits_and_delta_config() {
    let config = given("", APP).config();
    let app = &config.apps[0];
    assert_eq!((&*app.id, app.key.as_str(), app.secrets[0].reveal()), ("7", "public", &b"hush"[..]));
    assert!(app.enabled);
    assert_eq!(app.limits, AppLimits::default());
    assert_eq!(config.listen.to_string(), "0.0.0.0:6001");
    assert_eq!(config.metrics_listen.to_string(), "127.0.0.1:9601");
    assert_eq!((config.redis.as_deref(), config.redis_prefix.as_str()), (None, "fanfare"));
    assert_eq!(config.activity_timeout.as_secs(), 120);
    assert_eq!(config.history_age, limits::LOG_AGE_MAX);
    let refused_clients = vec!["python/<=2.2".to_owned()];
    assert_eq!(config.delta, DeltaConfig { refused_clients, ..DeltaConfig::default() });
    assert!(!config.tag_filtering && !config.dev);
}

/// Each row: `listen` of the file, the variable and the flag, whether `--dev` is set,
/// then the effective value and its source.
#[test]
fn value_of_the_highest_layer_is_effective() {
    let rows = [
        (None, None, None, false, "0.0.0.0:6001", "default"),
        (None, None, None, true, "127.0.0.1:6001", "flag --dev"),
        (Some("1.1.1.1:1"), None, None, false, "1.1.1.1:1", "file FILE, line 1"),
        (Some("1.1.1.1:1"), None, None, true, "1.1.1.1:1", "file FILE, line 1"),
        (Some("1.1.1.1:1"), Some("2.2.2.2:2"), None, false, "2.2.2.2:2", "env FANFARE_LISTEN"),
        (Some("1.1.1.1:1"), Some("2.2.2.2:2"), Some("[::]:3"), false, "[::]:3", "flag --listen"),
        (None, Some("2.2.2.2:2"), None, true, "2.2.2.2:2", "env FANFARE_LISTEN"),
        (None, None, Some("[::]:3"), true, "[::]:3", "flag --listen"),
    ];
    for (file, variable, flag, dev, listen, origin) in rows {
        let file = file.map(|listen: &str| format!("listen = \"{listen}\"")).unwrap_or_default();
        let variables: Vec<_> = variable.iter().map(|listen| ("FANFARE_LISTEN", *listen)).collect();
        let mut given = given(&file, &with_app(&variables));
        given.flags.listen = flag.map(str::to_owned);
        given.flags.dev = dev;
        assert_eq!(given.config().listen.to_string(), listen);
        let line = given
            .printed()
            .lines()
            .find(|line| line.starts_with("listen "))
            .map(str::to_owned)
            .expect("a line");
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
}

/// A valid value that differs from the default.
fn example<S>(kind: &Kind<S>) -> &'static str {
    match kind {
        Kind::Address(_) => "127.0.0.1:7777",
        Kind::Word(..) | Kind::Secret(_) | Kind::Secrets(_) => "abc",
        Kind::RedisUrl(_) => "redis://elsewhere",
        Kind::Flag(_) => "false",
        Kind::Count(..) | Kind::Limit(..) | Kind::Number(..) => "1",
        Kind::Choice(choices, _) => choices[0],
        Kind::ClientPatterns(_) => "x/<=1",
        Kind::LogFilter(_) => "debug",
        Kind::ChannelDeltas(_) => "a-*=disabled",
        Kind::Origins(_) => "https://*.example.com",
        Kind::Networks(_) => "10.0.0.0/8, ::1",
        Kind::PathPrefix(_) => "/realtime",
        Kind::MessageRate(_) => "{ enabled = true, max_attempts = 5 }",
        Kind::Webhooks(_) => "http://127.0.0.1:7001/hook, https://b.example",
        Kind::KeyPath(_) => "asset.symbol",
        Kind::Moot => "100",
        Kind::Unbuilt => "",
    }
}

#[test]
fn keys_can_all_be_set_in_the_environment() {
    for key in KEYS {
        let text = match &key.scope {
            Scope::Server(kind) => example(kind),
            Scope::App(kind) => example(kind),
        };
        let variable = key.variable();
        let mut variables = APP.to_vec();
        variables.retain(|(name, _)| *name != variable);
        variables.push((&variable, text));
        let given = given("", &variables);
        given.config();
        assert!(given.printed().contains(&format!("# env {variable}\n")), "{}", given.printed());
    }
}

#[test]
fn variable_names() {
    let variable = |path: &str| KEYS[keys::position(path).expect("a key")].variable();
    assert_eq!(variable("metrics_listen"), "FANFARE_METRICS_LISTEN");
    assert_eq!(variable("delta_compression.min_message_size"), "FANFARE_DELTA_COMPRESSION__MIN_MESSAGE_SIZE");
    assert_eq!(variable("apps.max_event_batch_size"), "FANFARE_APP_MAX_EVENT_BATCH_SIZE");
}

#[test]
fn unknown_keys_and_variables_are_reported_with_the_nearest() {
    let file = "lisen = 'x'\n[delta_compresion]\nenabled = true\n[delta_compression]\nfull_interval = 1\n\
                redis = ''\n[[apps]]\nid = '7'\nkey = 'k'\nsecret = 's'\nmaxEventBatchSize = 10\n";
    let variables = [
        ("FANFARE_LISTN", "x"),
        ("FANFARE_APP_SECRT", "x"),
        ("FANFARE_DELTA_COMPRESSION_MIN_MESSAGE_SIZE", "1"),
        ("FANFARE_CONFG", "x"),
    ];
    let mut found = given(file, &variables).problems();
    found.sort();
    let file = |key: &str, nearest: &str, line: u8| {
        format!("`{key}` is not a setting; the most similar is `{nearest}` (file FILE, line {line})")
    };
    let variable = |name: &str, nearest: &str| {
        format!("`{name}` is not a variable of fanfare; the most similar is `{nearest}` (environment)")
    };
    let mut expect = vec![
        file("lisen", "listen", 1),
        file("delta_compresion", "delta_compression", 2),
        file("delta_compression.full_interval", "delta_compression.full_message_interval", 5),
        file("delta_compression.redis", "redis", 6),
        file("apps[0].maxEventBatchSize", "apps.max_event_batch_size", 11),
        variable("FANFARE_LISTN", "FANFARE_LISTEN"),
        variable("FANFARE_APP_SECRT", "FANFARE_APP_SECRET"),
        variable("FANFARE_DELTA_COMPRESSION_MIN_MESSAGE_SIZE", "FANFARE_DELTA_COMPRESSION__MIN_MESSAGE_SIZE"),
        variable("FANFARE_CONFG", "FANFARE_CONFIG"),
    ];
    expect.sort();
    assert_eq!(found, expect);
}

#[test]
fn kubernetes_service_variables_are_ignored() {
    let links = [
        ("FANFARE_PORT", "tcp://10.0.0.1:6001"),
        ("FANFARE_PORT_6001_TCP", "tcp://10.0.0.1:6001"),
        ("FANFARE_PORT_6001_TCP_ADDR", "10.0.0.1"),
        ("FANFARE_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("FANFARE_REDIS_SERVICE_PORT_REDIS", "6379"),
        ("FANFARE_REDIS_PORT_6379_TCP_PROTO", "tcp"),
    ];
    given("", &with_app(&links)).config();
    for wrong in [("FANFARE_PORT", "6001"), ("FANFARE_PORT_FORWARD", "1")] {
        assert_eq!(given("", &with_app(&[wrong])).problems().len(), 1, "{wrong:?}");
    }
}

/// No setting permits a batch that is above the fixed bounds of one script call.
#[test]
fn batches_that_redis_cannot_publish_in_time_are_refused() {
    for (key, max) in [
        ("max_batch_publications", limits::BATCH_PUBLICATIONS_MAX),
        ("max_event_channels_at_once", limits::BATCH_PUBLICATIONS_MAX),
        ("max_event_batch_size", limits::BATCH_PUBLICATIONS_MAX),
        ("max_event_payload_in_kb", 170),
    ] {
        let app = |value: usize| {
            given(&format!("[[apps]]\nid = '1'\nkey = 'k'\nsecret = 's'\n{key} = {value}\n"), &[])
        };
        let limits = app(max).config().apps[0].limits.clone();
        assert!(limits.payload_bytes_max + limits::TAGS_BYTES_MAX <= limits::BATCH_BYTES_MAX, "{key}");
        let problems = app(max + 1).problems();
        assert!(
            problems[0].contains(key) && problems[0].contains(&format!("to {max}; it is")),
            "{problems:?}"
        );
    }
    let largest = "[[apps]]\nid = '1'\nkey = 'k'\nsecret = 's'\nmax_batch_publications = 1000\n\
                   max_event_channels_at_once = 1000\nmax_event_batch_size = 1000\n\
                   max_event_payload_in_kb = 170\n";
    let limits = given(largest, &[]).config().apps[0].limits.clone();
    let body_bytes = limits.body_bytes_max(limits.batch_events_max);
    assert!(body_bytes < 8 * limits::BATCH_BYTES_MAX, "the body limit follows too: {body_bytes}");
}

#[test]
fn mistakes_are_all_reported_together() {
    let file = "activity_timeout = 0\nredis = 'redis-cluster://a:1'\n\
                [delta_compression]\nmin_compression_ratio = 1.5\nalgorithm = 'bsdiff'\n\
                [[apps]]\nid = '1/2'\nkey = 'k'\nsecret = ''\n\
                [[apps]]\nid = '3'\nkey = 'k'\nmax_event_batch_size = 'many'\n";
    let mut given = given(file, &[("FANFARE_DRAIN_DELAY", "soon"), ("FANFARE_METRICS_LISTEN", "x")]);
    given.flags.listen = Some("6001".into());
    let found = given.problems().join("\n");
    for expect in [
        "`activity_timeout` (seconds of silence before a client pings) must be a whole number from 1 to 86400; it is 0 (file FILE, line 1)",
        "`redis` = redis-cluster:// is not supported by this version (file FILE, line 2)",
        "must be a number from 0 to 1; it is 1.5 (file FILE, line 4)",
        "must be fossil or xdelta3 or vcdiff; it is \"bsdiff\" (file FILE, line 5)",
        "`apps[0].id`",
        "`apps[0].secret` (secret that signs API calls and subscriptions) must be a text that is not empty, without quotes or white space around it, and without control characters; it is [hidden] (file FILE, line 9)",
        "`apps[1].key` and `apps[0].key` are the same: give each app its own (file FILE, line 12)",
        "it is \"many\" (file FILE, line 13)",
        "`apps[1].secret` is not set: add it to [[apps]], or set FANFARE_APP_SECRET (file FILE, line 10)",
        "it is \"soon\" (env FANFARE_DRAIN_DELAY)",
        "it is \"x\" (env FANFARE_METRICS_LISTEN)",
        "`listen` (address of the HTTP API and of WebSocket connections) must be HOST:PORT, such as `0.0.0.0:6001` or `[::]:6001`; it is \"6001\" (flag --listen)",
    ] {
        assert!(found.contains(expect), "{expect}\nnot in\n{found}");
    }
    assert_eq!(given.problems().len(), 12, "{found}");
    let shown = given.load().config.expect_err("invalid").to_string();
    assert!(shown.starts_with("12 mistakes in the configuration:\n- "), "{shown}");
}

#[test]
fn configuration_without_an_app_is_an_error_with_instructions() {
    let loaded = given("", &[]).load();
    let problems = loaded.config.expect_err("no app");
    assert!(problems.only_app_missing());
    for name in ["FANFARE_APP_ID", "FANFARE_APP_KEY", "FANFARE_APP_SECRET", "[[apps]]", "--dev"] {
        assert!(problems.to_string().contains(name), "{problems}");
    }
    assert!(given("listen = 1", &[]).problems().len() == 2);
}

#[test]
fn unreadable_file_is_the_only_mistake_reported() {
    let given_name = given("", &[("FANFARE_CONFIG", "/nowhere/fanfare.toml")]);
    let problems = given_name.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("`/nowhere/fanfare.toml` (env FANFARE_CONFIG)"), "{problems:?}");
    let broken = given("listen = '0.0.0.0:1'\nredis = = 1", &[]).problems();
    assert_eq!(broken.len(), 1);
    assert!(broken[0].starts_with("file FILE, line 2: "), "{broken:?}");
}

#[test]
fn unbuilt_keys_are_rejected_by_name() {
    let file = "[[apps]]\nid = '7'\nkey = 'k'\nsecret = 's'\nidempotency = { enabled = true }\n\
                channel_namespaces = [{ name = 'chat' }]\n";
    let mut found = given(file, &[]).problems();
    found.sort();
    assert_eq!(
        found,
        [
            "`apps[0].channel_namespaces` is not supported by this version (file FILE, line 6)",
            "`apps[0].idempotency` is not supported by this version (file FILE, line 5)",
        ]
    );
}

#[test]
fn unbuilt_keys_may_be_disabled() {
    let file = "[[apps]]\nid = 7\nkey = 'k'\nsecret = 's'\nidempotency = { enabled = false, ttl_seconds = 120 }\n\
                channel_namespaces = []\n";
    let given = given(file, &[]);
    assert_eq!(&*given.config().apps[0].id, "7");
    assert!(given.printed().contains("apps[0].channel_namespaces = []"), "{}", given.printed());
}

#[test]
fn environment_app_overrides_or_extends_apps_of_the_file() {
    let file =
        "[[apps]]\nid = '1'\nkey = 'one'\nsecret = 's1'\n[[apps]]\nid = '7'\nkey = 'seven'\nsecret = 's7'\n";
    let overridden =
        given(file, &[("FANFARE_APP_ID", "7"), ("FANFARE_APP_MAX_EVENT_BATCH_SIZE", "1000")]).config();
    assert_eq!(overridden.apps.len(), 2);
    assert_eq!(
        (overridden.apps[1].key.as_str(), overridden.apps[1].limits.batch_events_max),
        ("seven", 1000)
    );
    let added = given(&file.replace("'7'", "'8'"), APP).config();
    let ids: Vec<&str> = added.apps.iter().map(|app| &*app.id).collect();
    assert_eq!(ids, ["1", "8", "7"]);
    let without_id = given(file, &[("FANFARE_APP_ENABLED", "false")]).problems().join("\n");
    assert!(
        without_id.contains("`apps[2].id` is not set: add it to [[apps]], or set FANFARE_APP_ID"),
        "{without_id}"
    );
}

#[test]
fn secret_may_come_from_environment_or_a_file_of_its_own() {
    let mut secret = tempfile::NamedTempFile::new().expect("a temporary file");
    secret.write_all(b"from a file\n").expect("written");
    let path = secret.path().display().to_string();
    let file = "[[apps]]\nid = '1'\nkey = 'one'\n";
    let config = given(file, &[("FANFARE_APP_SECRET_FILE", &path)]).config();
    assert_eq!(config.apps[0].secrets[0].reveal(), b"from a file");
    let config = given(file, &[("FANFARE_APP_SECRET", "from the environment")]).config();
    assert_eq!(config.apps[0].secrets[0].reveal(), b"from the environment");
    let both = given(file, &[("FANFARE_APP_SECRET_FILE", &path), ("FANFARE_APP_SECRET", "x")]).problems();
    assert_eq!(
        both,
        ["`FANFARE_APP_SECRET` and `FANFARE_APP_SECRET_FILE` are both set: keep one (environment)"]
    );
    let gone = given(file, &[("FANFARE_APP_SECRET_FILE", "/nowhere/secret")]).problems().join("\n");
    assert!(gone.contains("cannot read the file `/nowhere/secret` (env FANFARE_APP_SECRET_FILE)"), "{gone}");
}

#[test]
fn secrets_are_hidden_in_output() {
    let variables = with_app(&[("FANFARE_REDIS", "redis://ann:geheim@host:6379/1")]);
    let given = given("[[apps]]\nid = '1'\nkey = 'one'\nsecret = 'another'\n", &variables);
    let shown = format!("{}{:?}{:?}", given.printed(), given.config(), given.load());
    for secret in ["hush", "another", "geheim"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(given.printed().contains("redis = \"redis://ann:[hidden]@host:6379/1\""), "{}", given.printed());
    assert!(given.printed().contains("apps[1].secret = [hidden]"), "{}", given.printed());
    let wrong = super::tests::given("", &with_app(&[("FANFARE_REDIS", "redis://:geheim@:6379")])).problems();
    assert!(!wrong[0].contains("geheim") && wrong[0].contains("[hidden]"), "{wrong:?}");
}

#[test]
fn dev_adds_a_demo_app_only_without_another_app() {
    let config = given("", &[]).dev().config();
    assert!(config.dev);
    assert_eq!(config.listen.to_string(), "127.0.0.1:6001");
    let app = &config.apps[0];
    assert_eq!(
        (&*app.id, app.key.as_str(), app.secrets[0].reveal()),
        ("1001", "dev-key", &b"dev-secret"[..])
    );
    let own = given("", APP).dev().config();
    assert_eq!(own.apps.len(), 1);
    assert_eq!(&*own.apps[0].id, "7");
}

#[test]
fn app_id_with_non_digits_is_a_warning() {
    let mut variables = APP.to_vec();
    variables[0].1 = "my-app";
    let loaded = given("", &variables).load();
    assert!(loaded.config.is_ok());
    let expect = "`apps[0].id` = \"my-app\" is not all digits: \
                  Pusher's Python library will refuse it (env FANFARE_APP_ID)";
    assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expect]);
}

#[test]
fn demo_app_on_a_public_address_is_a_warning() {
    let mut exposed = given("", &[]).dev();
    assert!(exposed.load().warnings.is_empty());
    exposed.flags.listen = Some("0.0.0.0:6001".into());
    let warnings = exposed.load().warnings;
    assert!(matches!(warnings[..], [Warning::DemoAppExposed { .. }]), "{warnings:?}");
}

#[test]
fn listeners_with_the_same_address_are_an_error() {
    let same = given("", &with_app(&[("FANFARE_METRICS_LISTEN", "0.0.0.0:6001")])).problems();
    assert_eq!(
        same,
        ["`metrics_listen` is the address of `listen`: give each its own (env FANFARE_METRICS_LISTEN)"]
    );
    let free = [("FANFARE_METRICS_LISTEN", "127.0.0.1:0"), ("FANFARE_LISTEN", "127.0.0.1:0")];
    given("", &with_app(&free)).config();
}

#[test]
fn kilobyte_limits_may_have_a_fraction() {
    let limit = |text: &str| {
        let config = given("", &with_app(&[("FANFARE_APP_MAX_EVENT_PAYLOAD_IN_KB", text)])).config();
        config.apps[0].limits.payload_bytes_max
    };
    assert_eq!((limit("10"), limit("0.5"), limit("100")), (10_240, 512, 102_400));
}
