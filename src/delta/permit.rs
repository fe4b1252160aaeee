//! On which channels an app permits deltas (protocol.md 3.11,
//! `channel_delta_compression`). It only permits: it is the client that asks.

/// Channel patterns with what they say. The default permits everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelPermits(Vec<(String, bool)>);

impl ChannelPermits {
    /// A pattern is a channel name with at most one `*`, which stands for any
    /// text.
    pub fn new(patterns: impl IntoIterator<Item = (String, bool)>) -> ChannelPermits {
        let mut patterns: Vec<(String, bool)> = patterns.into_iter().collect();
        // An exact name says more than any pattern, and a long pattern more than
        // a short one. Among equals the order of the alphabet decides, so that
        // every node decides alike.
        patterns.sort_by(|(a, _), (b, _)| {
            let rank = |pattern: &str| (pattern.contains('*'), usize::MAX - pattern.len());
            rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
        });
        ChannelPermits(patterns)
    }

    pub fn permits(&self, channel: &str) -> bool {
        self.0.iter().find(|(pattern, _)| matches(pattern, channel)).is_none_or(|(_, permits)| *permits)
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

    #[test]
    fn the_longest_pattern_wins() {
        let permits = ChannelPermits::new([
            ("*".into(), false),
            ("market-*".into(), true),
            ("market-*-raw".into(), false),
            ("market-btc-raw".into(), true),
            ("*-end".into(), true),
        ]);
        for (channel, permitted) in [
            ("news", false),
            ("market-eth", true),
            ("market-eth-raw", false),
            ("market-btc-raw", true),
            ("market-raw", true),
            ("the-end", true),
        ] {
            assert_eq!(permits.permits(channel), permitted, "{channel}");
        }
        assert!(ChannelPermits::default().permits("anything"));
    }
}
