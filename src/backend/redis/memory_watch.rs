//! The memory of Redis: when it is full, Redis refuses every publish of every app.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fred::interfaces::ClientLike;
use fred::prelude::{Client, Error};
use fred::types::InfoKind;
use tokio::time::MissedTickBehavior;

use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

/// The answer to `INFO memory`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryInfo {
    /// `used_memory`, in bytes.
    used: u64,
    /// `maxmemory`, in bytes; 0 is no limit.
    max: u64,
    policy: Option<String>,
}

/// The last known memory of Redis, in bytes.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    /// Redis may evict channels: its policy was changed after the start of the node.
    evicts: AtomicBool,
    used: AtomicU64,
    max: AtomicU64,
}

impl MemoryInfo {
    pub(super) async fn read(client: &Client) -> Result<MemoryInfo, Error> {
        Ok(MemoryInfo::parse(&client.info::<String>(Some(InfoKind::Memory)).await?))
    }

    /// The policy by which Redis evicts keys, if it does: evicted channels lose their history and
    /// their members. If Redis does not report its policy, the operator is responsible.
    pub(super) fn evicting_policy(&self) -> Option<&str> {
        self.policy.as_deref().filter(|policy| *policy != "noeviction")
    }

    fn parse(info: &str) -> MemoryInfo {
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let bytes = |name| value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        MemoryInfo {
            used: bytes("used_memory"),
            max: bytes("maxmemory"),
            policy: value("maxmemory_policy").map(str::to_owned),
        }
    }
}

impl MemoryWatch {
    /// Spawns the task that reads the memory every [`limits::REDIS_MEMORY_INTERVAL`].
    pub(super) fn start(client: Client) -> Arc<MemoryWatch> {
        let watch = Arc::<MemoryWatch>::default();
        Task::RedisMemory.spawn(watch.clone().run(client));
        watch
    }

    async fn run(self: Arc<MemoryWatch>, client: Client) {
        let mut interval = tokio::time::interval(limits::REDIS_MEMORY_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_logged = false;
        loop {
            interval.tick().await;
            // While Redis is unavailable the last values stay; that it is, is reported elsewhere.
            let Ok(info) = MemoryInfo::read(&client).await else { continue };
            self.check_policy(&info);
            let MemoryInfo { used, max, .. } = info;
            self.used.store(used, Ordering::Relaxed);
            self.max.store(max, Ordering::Relaxed);
            metrics().redis_memory_used.set(used as f64);
            metrics().redis_memory_max.set(max as f64);
            let is_nearly_full = self.is_above(limits::REDIS_MEMORY_WARNING_PERCENT);
            if is_nearly_full && !is_logged {
                tracing::warn!(used, max, "Redis is near its maxmemory; when it is full, publishes fail");
                is_logged = true;
            } else if is_logged && !self.is_above(limits::REDIS_MEMORY_CLEAR_PERCENT) {
                tracing::info!(used, max, "Redis is no longer near its maxmemory");
                is_logged = false;
            }
        }
    }

    fn check_policy(&self, info: &MemoryInfo) {
        let policy = info.evicting_policy();
        if self.evicts.swap(policy.is_some(), Ordering::Relaxed) == policy.is_some() {
            return;
        }
        match policy {
            Some(policy) => {
                tracing::warn!(policy, "Redis may evict channels: set maxmemory-policy to noeviction");
            }
            None => tracing::info!("Redis evicts no channels any more"),
        }
    }

    /// For `/ready`: Redis may evict channels, or is near its `maxmemory`.
    pub(super) fn warning(&self) -> Option<String> {
        if self.evicts.load(Ordering::Relaxed) {
            return Some("Redis may evict channels: its maxmemory-policy is not noeviction".to_owned());
        }
        let (used, max) = (self.used.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed));
        self.is_above(limits::REDIS_MEMORY_WARNING_PERCENT)
            .then(|| format!("Redis uses {used} of {max} bytes of its maxmemory"))
    }

    fn is_above(&self, percent: u64) -> bool {
        let (used, max) = (self.used.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed));
        max > 0 && u128::from(used) * 100 >= u128::from(max) * u128::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_info_is_read_by_name() {
        let info = "# Memory\r\nused_memory:1000\r\nused_memory_rss:5\r\nmaxmemory:2000\r\nmaxmemory_human:2K\r\n\
                    maxmemory_policy:noeviction\r\n";
        let policy = Some("noeviction".to_owned());
        assert_eq!(MemoryInfo::parse(info), MemoryInfo { used: 1_000, max: 2_000, policy });
        assert_eq!(MemoryInfo::parse(""), MemoryInfo::default());
    }

    #[test]
    fn warning_needs_a_limit_and_nine_tenths_of_it() {
        let watch = MemoryWatch::default();
        for (used, max, warns) in [(1_000, 0, false), (899, 1_000, false), (900, 1_000, true), (0, 0, false)]
        {
            watch.used.store(used, Ordering::Relaxed);
            watch.max.store(max, Ordering::Relaxed);
            assert_eq!(watch.warning().is_some(), warns, "{used} of {max}");
        }
    }
}
