//! Delta settings of a channel: the app's `channel_delta_compression` overrides the
//! server's settings (protocol.md 3.8, 3.11). Settings only permit deltas; a client has to
//! enable them.

use super::Algorithm;
use super::conflation::KeyPath;
use super::settings::DeltaConfig;

/// The settings of one channel pattern; `None` is the server's setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelSetting {
    pub enabled: Option<bool>,
    pub algorithm: Option<Algorithm>,
    pub conflation_key: Option<KeyPath>,
    /// `max_conflation_keys`
    pub keys_max: Option<usize>,
    /// `max_messages_per_key`
    pub messages_per_key_max: Option<usize>,
    /// `enable_tags`
    pub shows_tags: Option<bool>,
    pub cache_sync: Option<bool>,
}

/// Channel patterns with their settings. By default there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelDeltas(Vec<(String, ChannelSetting)>);

/// The effective settings of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelDelta {
    /// If false, only events with `delta: true` are in the chain.
    pub enabled: bool,
    /// The format for clients without a preference.
    pub algorithm: Algorithm,
    /// Path of the conflation key in an event's `data`.
    pub conflation_key: Option<KeyPath>,
    /// Chains of the channel; above it, the least recently used one is evicted.
    pub keys_max: usize,
    /// Events per chain that clients keep, sent with the initial bases (protocol.md 3.9).
    pub messages_per_key_max: usize,
    /// Whether events have their tags, for clients with deltas, positions or a filter.
    pub shows_tags: bool,
    /// Whether a new subscriber receives initial bases: the newest event of each chain.
    pub cache_sync: bool,
}

impl Default for ChannelDelta {
    fn default() -> ChannelDelta {
        ChannelDeltas::default().on("", &DeltaConfig::default())
    }
}

impl ChannelDeltas {
    /// A pattern is a channel name with at most one `*`, which matches any text.
    pub fn new(patterns: impl IntoIterator<Item = (String, ChannelSetting)>) -> ChannelDeltas {
        let mut patterns: Vec<(String, ChannelSetting)> = patterns.into_iter().collect();
        // An exact name precedes patterns, and a long pattern a short one. Equal ranks are
        // in alphabetical order, so that all nodes agree.
        patterns.sort_by(|(a, _), (b, _)| {
            let rank = |pattern: &str| (pattern.contains('*'), usize::MAX - pattern.len());
            rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
        });
        ChannelDeltas(patterns)
    }

    /// The setting of the first pattern that matches. Other patterns have no effect.
    fn find(&self, channel: &str) -> Option<&ChannelSetting> {
        self.0.iter().find(|(pattern, _)| matches(pattern, channel)).map(|(_, setting)| setting)
    }

    /// The effective settings of the channel.
    pub fn on(&self, channel: &str, server: &DeltaConfig) -> ChannelDelta {
        let setting = self.find(channel);
        fn choose<T: Clone>(pattern: Option<&Option<T>>, server: &T) -> T {
            pattern.and_then(Option::clone).unwrap_or_else(|| server.clone())
        }
        ChannelDelta {
            enabled: server.enabled && choose(setting.map(|it| &it.enabled), &true),
            algorithm: choose(setting.map(|it| &it.algorithm), &server.algorithm),
            conflation_key: setting
                .and_then(|it| it.conflation_key.clone())
                .or_else(|| server.conflation_key.clone()),
            keys_max: choose(setting.map(|it| &it.keys_max), &server.keys_max),
            messages_per_key_max: choose(
                setting.map(|it| &it.messages_per_key_max),
                &super::MESSAGES_PER_KEY_MAX,
            ),
            shows_tags: server.shows_tags && choose(setting.map(|it| &it.shows_tags), &true),
            cache_sync: choose(setting.map(|it| &it.cache_sync), &server.cache_sync),
        }
    }
}

fn matches(pattern: &str, channel: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == channel,
        Some((start, end)) => {
            channel.len() >= start.len() + end.len() && channel.starts_with(start) && channel.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSET: ChannelSetting = ChannelSetting {
        enabled: None,
        algorithm: None,
        conflation_key: None,
        keys_max: None,
        messages_per_key_max: None,
        shows_tags: None,
        cache_sync: None,
    };

    fn deltas(patterns: &[(&str, ChannelSetting)]) -> ChannelDeltas {
        ChannelDeltas::new(patterns.iter().map(|(pattern, setting)| ((*pattern).to_owned(), setting.clone())))
    }

    /// Each pattern sets a different number, which identifies the match.
    #[test]
    fn exact_name_precedes_patterns_and_long_patterns_precede_short_ones() {
        let patterns = [
            "*",
            "m*",
            "market-*",
            "market-*-raw",
            "market-btc-raw",
            "*-end",
            "a*",
            "*a",
            "price-*-x",
            "price",
        ];
        let numbered = |(at, pattern): (usize, &&'static str)| {
            (*pattern, ChannelSetting { keys_max: Some(at), ..UNSET })
        };
        let mut numbered: Vec<_> = patterns.iter().enumerate().map(numbered).collect();
        let cases = [
            ("news", "*"),
            ("m", "m*"),
            ("market-", "market-*"),
            ("market-eth", "market-*"),
            ("market-eth-raw", "market-*-raw"),
            ("market-raw", "market-*"),
            ("market-btc-raw", "market-btc-raw"),
            ("Market-eth", "*"),
            ("the-end", "*-end"),
            ("market-the-end", "market-*"),
            ("aba", "*a"),
            ("price", "price"),
            ("price-x", "*"),
        ];
        // In any order of the configuration.
        for _ in 0..patterns.len() {
            numbered.rotate_left(1);
            let deltas = deltas(&numbered);
            for (channel, expect) in cases {
                let found = patterns[deltas.on(channel, &DeltaConfig::default()).keys_max];
                assert_eq!(found, expect, "{channel}");
            }
        }
    }

    #[test]
    fn pattern_without_settings_hides_other_patterns() {
        let disabled = ChannelSetting { enabled: Some(false), ..UNSET };
        let deltas = deltas(&[("*", disabled), ("market-*", UNSET)]);
        let server = DeltaConfig::default();
        assert!(!deltas.on("news", &server).enabled);
        assert!(deltas.on("market-x", &server).enabled);
    }

    fn server() -> DeltaConfig {
        DeltaConfig {
            algorithm: Algorithm::Vcdiff,
            conflation_key: KeyPath::parse("id"),
            keys_max: 7,
            cache_sync: true,
            shows_tags: true,
            ..DeltaConfig::default()
        }
    }

    fn as_the_server() -> ChannelDelta {
        ChannelDelta {
            enabled: true,
            algorithm: Algorithm::Vcdiff,
            conflation_key: KeyPath::parse("id"),
            keys_max: 7,
            messages_per_key_max: 10,
            shows_tags: true,
            cache_sync: true,
        }
    }

    #[test]
    fn unset_settings_are_those_of_the_server() {
        let some = ChannelSetting { keys_max: Some(3), ..UNSET };
        let deltas = deltas(&[("none", UNSET), ("some", some)]);
        for channel in ["none", "elsewhere"] {
            assert_eq!(deltas.on(channel, &server()), as_the_server());
        }
        assert_eq!(deltas.on("some", &server()), ChannelDelta { keys_max: 3, ..as_the_server() });
    }

    #[test]
    fn pattern_settings_override_those_of_the_server() {
        let all = ChannelSetting {
            enabled: Some(false),
            algorithm: Some(Algorithm::Fossil),
            conflation_key: KeyPath::parse("symbol"),
            keys_max: Some(1),
            messages_per_key_max: Some(2),
            shows_tags: Some(false),
            cache_sync: Some(false),
        };
        let expect = ChannelDelta {
            enabled: false,
            algorithm: Algorithm::Fossil,
            conflation_key: KeyPath::parse("symbol"),
            keys_max: 1,
            messages_per_key_max: 2,
            shows_tags: false,
            cache_sync: false,
        };
        assert_eq!(deltas(&[("a", all)]).on("a", &server()), expect);
    }

    #[test]
    fn pattern_cannot_enable_what_the_server_disables() {
        let yes = ChannelSetting { enabled: Some(true), shows_tags: Some(true), ..UNSET };
        let server = DeltaConfig { enabled: false, shows_tags: false, ..server() };
        let expect = ChannelDelta { enabled: false, shows_tags: false, ..as_the_server() };
        assert_eq!(deltas(&[("a", yes)]).on("a", &server), expect);
    }
}
