//! Settings of deltas and tags, for the server and for channels of an app.

use std::time::Duration;

use super::tests::{given, with_app};
use super::{Config, Origin, read_app};
use crate::delta::Algorithm;
use crate::delta::channels::{ChannelDelta, ChannelDeltas, ChannelSetting};
use crate::delta::conflation::KeyPath;
use crate::delta::settings::{DeltaConfig, MarkerStyle};

fn server(lines: &str) -> Config {
    given(lines, &with_app(&[])).config()
}

/// A file with an app that has this `channel_delta_compression`.
fn app_file(deltas: &str) -> String {
    format!("[[apps]]\nid = 7\nkey = 'k'\nsecret = 's'\nchannel_delta_compression = {deltas}\n")
}

fn deltas(toml: &str) -> ChannelDeltas {
    given(&app_file(toml), &[]).config().apps.remove(0).deltas
}

fn expected(patterns: &[(&str, ChannelSetting)]) -> ChannelDeltas {
    ChannelDeltas::new(patterns.iter().map(|(pattern, setting)| ((*pattern).to_owned(), setting.clone())))
}

const UNSET: ChannelSetting = ChannelSetting {
    enabled: None,
    algorithm: None,
    conflation_key: None,
    keys_max: None,
    messages_per_key_max: None,
    shows_tags: None,
    cache_sync: None,
};

#[test]
fn server_delta_settings_are_all_parsed() {
    let config = server(
        "[delta_compression]\nenabled = false\nalgorithm = 'XDelta3'\nmarkers = 'Plain'\nfull_message_interval = 7\n\
         min_message_size = 50\nmin_compression_ratio = 0.5\nmax_state_age_secs = 60\nomit_delta_algorithm = true\n\
         refused_clients = []\nconflation_key_path = 'data.asset.symbol'\nmax_conflation_states_per_channel = 20\n\
         cache_sync = true\n[tag_filtering]\nenabled = true\n",
    );
    assert_eq!(
        config.delta,
        DeltaConfig {
            enabled: false,
            algorithm: Algorithm::Vcdiff,
            markers: MarkerStyle::Plain,
            full_message_interval: 7,
            min_message_bytes: 50,
            compression_ratio_max: 0.5,
            base_age_max: Duration::from_secs(60),
            omit_algorithm: true,
            refused_clients: vec![],
            conflation_key: KeyPath::parse("asset.symbol"),
            keys_max: 20,
            cache_sync: true,
            shows_tags: true,
        }
    );
    assert!(config.tag_filtering);
    assert_eq!(server("[delta_compression]\nalgorithm = 'vcdiff'").delta.algorithm, Algorithm::Vcdiff);
}

#[test]
fn tags_are_shown_with_tag_filtering_unless_enable_tags_is_false() {
    for (lines, filters, shows) in [
        ("enabled = true", true, true),
        ("enabled = true\nenable_tags = false", true, false),
        ("enable_tags = true", false, false),
        ("enabled = false", false, false),
    ] {
        let config = server(&format!("[tag_filtering]\n{lines}"));
        assert_eq!((config.tag_filtering, config.delta.shows_tags), (filters, shows), "{lines}");
    }
}

#[test]
fn moot_keys_accept_any_value_without_effect() {
    for value in ["0", "100", "true", "false", "'redis'", "{}"] {
        let lines = format!(
            "[delta_compression]\nmax_channel_states_per_socket = {value}\ncluster_coordination = {value}\n"
        );
        assert_eq!(server(&lines).delta, server("").delta, "{value}");
    }
    let printed = given("[delta_compression]\ncluster_coordination = true\n", &with_app(&[])).printed();
    assert!(printed.contains("delta_compression.cluster_coordination = true"), "{printed}");
    assert!(!printed.contains("max_channel_states_per_socket"), "{printed}");
}

#[test]
fn server_delta_mistakes_are_all_reported() {
    let lines = "[delta_compression]\nmarkers = 'both'\nmax_conflation_states_per_channel = 0\nconflation_key_path = 'a..b'\n\
                 cache_sync = 'maybe'\n[tag_filtering]\nenabled = 2\n";
    let found = given(lines, &with_app(&[])).problems().join("\n");
    for expect in [
        "must be underscore or plain; it is \"both\" (file FILE, line 2)",
        "must be a whole number from 1 to 10000; it is 0 (file FILE, line 3)",
        "must be names with dots between them, such as `symbol` or `asset.id`; it is \"a..b\" (file FILE, line 4)",
        "`delta_compression.cache_sync` (initial bases for new subscribers) must be true or false; it is \"maybe\"",
        "`tag_filtering.enabled` (filters of subscriptions by tags) must be true or false; it is 2",
    ] {
        assert!(found.contains(expect), "{expect}\nnot in\n{found}");
    }
    assert_eq!(found.lines().count(), 5, "{found}");
}

#[test]
fn channel_deltas_are_parsed_from_words_and_tables() {
    let table = "{ enabled = true, algorithm = 'Vcdiff', conflation_key = 'data.asset.id', max_messages_per_key = 5, \
                 max_conflation_keys = '50', enable_tags = false, cache_sync = true }";
    let toml = format!(
        "{{ 'quiet-*' = 'Disabled', a = 'inherit', b = 'FOSSIL', c = 'xdelta3', 'market-*' = {table}, d = {{}}, \
           'e.*.f' = {{ enabled = false }} }}"
    );
    let all = ChannelSetting {
        enabled: Some(true),
        algorithm: Some(Algorithm::Vcdiff),
        conflation_key: KeyPath::parse("asset.id"),
        messages_per_key_max: Some(5),
        keys_max: Some(50),
        shows_tags: Some(false),
        cache_sync: Some(true),
    };
    let disabled = ChannelSetting { enabled: Some(false), ..UNSET };
    let in_format = |algorithm| ChannelSetting { algorithm: Some(algorithm), ..UNSET };
    let expect = expected(&[
        ("quiet-*", disabled.clone()),
        ("a", UNSET),
        ("b", in_format(Algorithm::Fossil)),
        ("c", in_format(Algorithm::Vcdiff)),
        ("market-*", all),
        ("d", UNSET),
        ("e.*.f", disabled),
    ]);
    assert_eq!(deltas(&toml), expect);
    // A variable has the notation of the file.
    let env = given("", &with_app(&[("FANFARE_APP_CHANNEL_DELTA_COMPRESSION", &toml)])).config();
    assert_eq!(env.apps[0].deltas, expect);
    // The text stored in Redis has it as well.
    let stored = format!("id = '7'\nkey = 'k'\nsecret = 's'\nchannel_delta_compression = {toml}");
    assert_eq!(read_app(&stored, &Origin::Command).expect("an app").deltas, expect);
    // The printed form parses to the same value.
    let printed = given(&app_file(&toml), &[]).printed();
    let line = printed.lines().find_map(|line| line.strip_prefix("apps[0].channel_delta_compression = "));
    let (shown, _) = line.expect("a line").rsplit_once("  # ").expect("an origin");
    assert_eq!(deltas(shown), expect, "{shown}");
    assert!(shown.contains("\"quiet-*\" = \"disabled\"") && shown.contains("\"b\" = \"fossil\""), "{shown}");
}

#[test]
fn channel_deltas_in_a_variable_may_be_pairs_of_words() {
    let read =
        |text: &str| given("", &with_app(&[("FANFARE_APP_CHANNEL_DELTA_COMPRESSION", text)])).load().config;
    let good = read("quiet-*=disabled, b = Xdelta3").expect("a configuration").apps.remove(0).deltas;
    let disabled = ChannelSetting { enabled: Some(false), ..UNSET };
    let vcdiff = ChannelSetting { algorithm: Some(Algorithm::Vcdiff), ..UNSET };
    assert_eq!(good, expected(&[("quiet-*", disabled), ("b", vcdiff)]));
    assert_eq!(read("").expect("nothing").apps.remove(0).deltas, ChannelDeltas::default());
    for wrong in ["quiet-*", "a=loud", "a=fossil,a=disabled", "a=fossil,", "=fossil", "a**=fossil"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn channel_delta_mistakes_are_all_reported_with_their_path() {
    let toml = "{ 'market-*' = { conflation_key = 'a..b', algoritm = 'fossil', max_conflation_keys = 0 }, \
                'a*b*' = 'fossil', b = 'off', c = 7, d = { algorithm = 'bsdiff', enable_tags = 'x', cache_sync = 2 } }";
    let mut found = given(&app_file(toml), &[]).problems();
    found.sort();
    let wrong = |inside: &str, expected: &str| {
        format!(
            "`apps[0].channel_delta_compression.{inside}` (delta settings by channel pattern) must be {expected} (file FILE, line 5)"
        )
    };
    let setting = "\"inherit\", \"disabled\", \"fossil\", \"xdelta3\" or a table of `enabled`, `algorithm`, \
                   `conflation_key`, `max_messages_per_key`, `max_conflation_keys`, `enable_tags` and `cache_sync`";
    let expect = [
        wrong("a*b*", "under a channel name with at most one `*`; it is under \"a*b*\""),
        wrong("b", &format!("{setting}; it is \"off\"")),
        wrong("c", &format!("{setting}; it is 7")),
        wrong("d.algorithm", "fossil or xdelta3; it is \"bsdiff\""),
        wrong("d.cache_sync", "true or false; it is 2"),
        wrong("d.enable_tags", "true or false; it is \"x\""),
        "`apps[0].channel_delta_compression.market-*.algoritm` is not a setting; the most similar is `algorithm` (file FILE, line 5)".into(),
        wrong("market-*.conflation_key", "names with dots between them, such as `symbol` or `asset.id`; it is \"a..b\""),
        wrong("market-*.max_conflation_keys", "a whole number from 1 to 10000; it is 0"),
    ];
    assert_eq!(found, expect);
}

/// From the file to the effective settings of a channel.
#[test]
fn channel_pattern_overrides_server_settings() {
    let file = format!(
        "[delta_compression]\nconflation_key_path = 'id'\nmax_conflation_states_per_channel = 20\n\
         [tag_filtering]\nenabled = true\n{}",
        app_file(
            "{ 'market-*' = { conflation_key = 'symbol', algorithm = 'xdelta3', enable_tags = false } }"
        )
    );
    let config = given(&file, &[]).config();
    let on = |channel: &str| config.apps[0].deltas.on(channel, &config.delta);
    let elsewhere = ChannelDelta {
        enabled: true,
        algorithm: Algorithm::Fossil,
        conflation_key: KeyPath::parse("id"),
        keys_max: 20,
        messages_per_key_max: 10,
        shows_tags: true,
        cache_sync: false,
    };
    assert_eq!(on("news"), elsewhere);
    let (algorithm, conflation_key) = (Algorithm::Vcdiff, KeyPath::parse("symbol"));
    assert_eq!(on("market-x"), ChannelDelta { algorithm, conflation_key, shows_tags: false, ..elsewhere });
}
