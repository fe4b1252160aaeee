//! What deltas are on one channel: the app's `channel_delta_compression` over the
//! server's settings (protocol.md 3.8, 3.11). All of it only permits: it is the
//! client that asks.

use super::Algorithm;
use super::conflation::KeyPath;
use super::settings::DeltaConfig;

/// What one pattern says; None is what the server has.
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

/// Channel patterns with what they say. The default says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelDeltas(Vec<(String, ChannelSetting)>);

/// What holds on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelDelta {
    /// Where false, only events that ask for it themselves (`delta: true`) are in
    /// the chain.
    pub enabled: bool,
    /// Where the client leaves the choice.
    pub algorithm: Algorithm,
    /// Where the key of an event's chain stands in its `data`.
    pub conflation_key: Option<KeyPath>,
    /// Chains of the channel; beyond, the one that was silent longest is forgotten.
    pub keys_max: usize,
    /// What clients are told to keep.
    pub messages_per_key_max: usize,
    /// Who asked for deltas, positions or a filter gets events with their tags.
    pub shows_tags: bool,
    /// Who joins is sent the newest event of each chain as a base.
    pub cache_sync: bool,
}

impl Default for ChannelDelta {
    fn default() -> ChannelDelta {
        ChannelDeltas::default().on("", &DeltaConfig::default())
    }
}

impl ChannelDeltas {
    /// A pattern is a channel name with at most one `*`, which stands for any
    /// text.
    pub fn new(patterns: impl IntoIterator<Item = (String, ChannelSetting)>) -> ChannelDeltas {
        let mut patterns: Vec<(String, ChannelSetting)> = patterns.into_iter().collect();
        // An exact name says more than any pattern, and a long pattern more than
        // a short one. Among equals the order of the alphabet decides, so that
        // every node decides alike.
        patterns.sort_by(|(a, _), (b, _)| {
            let rank = |pattern: &str| (pattern.contains('*'), usize::MAX - pattern.len());
            rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
        });
        ChannelDeltas(patterns)
    }

    /// The pattern that speaks of the channel; no other is looked at.
    fn find(&self, channel: &str) -> Option<&ChannelSetting> {
        self.0.iter().find(|(pattern, _)| matches(pattern, channel)).map(|(_, setting)| setting)
    }

    /// What holds on the channel.
    pub fn on(&self, channel: &str, server: &DeltaConfig) -> ChannelDelta {
        let setting = self.find(channel);
        fn choose<T: Clone>(said: Option<&Option<T>>, server: &T) -> T {
            said.and_then(Option::clone).unwrap_or_else(|| server.clone())
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

    const NOTHING: ChannelSetting = ChannelSetting {
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

    /// Which pattern speaks, told by a number that each says.
    #[test]
    fn a_name_wins_over_patterns_and_a_long_pattern_over_a_short_one() {
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
            (*pattern, ChannelSetting { keys_max: Some(at), ..NOTHING })
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
        // Whatever the order in which they were written.
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
    fn a_pattern_that_says_nothing_ends_the_search() {
        let disabled = ChannelSetting { enabled: Some(false), ..NOTHING };
        let deltas = deltas(&[("*", disabled), ("market-*", NOTHING)]);
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
    fn what_is_not_said_is_as_for_the_server() {
        let some = ChannelSetting { keys_max: Some(3), ..NOTHING };
        let deltas = deltas(&[("none", NOTHING), ("some", some)]);
        for channel in ["none", "elsewhere"] {
            assert_eq!(deltas.on(channel, &server()), as_the_server());
        }
        assert_eq!(deltas.on("some", &server()), ChannelDelta { keys_max: 3, ..as_the_server() });
    }

    #[test]
    fn what_is_said_counts() {
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
    fn no_pattern_permits_what_the_server_forbids() {
        let yes = ChannelSetting { enabled: Some(true), shows_tags: Some(true), ..NOTHING };
        let server = DeltaConfig { enabled: false, shows_tags: false, ..server() };
        let expect = ChannelDelta { enabled: false, shows_tags: false, ..as_the_server() };
        assert_eq!(deltas(&[("a", yes)]).on("a", &server), expect);
    }
}
