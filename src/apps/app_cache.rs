//! A cache for reads of apps, with expiry and invalidation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::backend::BackendError;
use crate::limits;

/// Values by name, each with its lifetime. At most [`limits::APPS_CACHED_MAX`] entries:
/// above it, the least used one is evicted.
#[derive(Debug)]
pub(super) struct AppCache<V: Clone + Send + Sync + 'static>(Cache<String, CacheEntry<V>>);

#[derive(Debug, Clone)]
struct CacheEntry<V> {
    value: V,
    /// [`Invalidations::count`] at the start of the read.
    read_at: u64,
}

/// The last change of each name, as a number of changes so far. An entry whose read began
/// before the last change of its name may be stale.
#[derive(Debug)]
pub(super) struct Invalidations {
    count: AtomicU64,
    /// Count at the last change of all names.
    all: AtomicU64,
    /// Count at the last change of a name, kept longer than any entry of the cache. Ids and
    /// keys share it: a key equal to a changed id is read once more than necessary.
    names: Cache<String, u64>,
}

/// The lifetime of a cached value: short for absent apps.
pub(super) trait Lifetime {
    fn lifetime(&self) -> Duration;
}

impl<V: Lifetime + Clone + Send + Sync + 'static> AppCache<V> {
    pub(super) fn new() -> AppCache<V> {
        let cache = Cache::builder().max_capacity(limits::APPS_CACHED_MAX);
        AppCache(cache.expire_after(ByValue).build())
    }

    /// The cached value, or the result of `read`, which runs once for concurrent callers.
    /// Never returns a value whose read began before the last change of the name.
    ///
    /// # Errors
    ///
    /// The error of `read`, or [`BackendError::Unavailable`] after
    /// [`limits::APP_LOOKUP_ATTEMPTS_MAX`] attempts with a change during each.
    pub(super) async fn get<F>(
        &self,
        name: &str,
        changes: &Invalidations,
        read: impl Fn() -> F,
    ) -> Result<V, BackendError>
    where
        F: Future<Output = Result<V, BackendError>>,
    {
        for _ in 0..limits::APP_LOOKUP_ATTEMPTS_MAX {
            let entry = match self.0.get(name).await {
                Some(entry) => entry,
                None => {
                    let read = async {
                        let read_at = changes.count.load(Ordering::Acquire);
                        Ok(CacheEntry { value: read().await?, read_at })
                    };
                    // Boxed: the future of a Redis command is large, and nearly all
                    // calls find a cached value.
                    let read = Box::pin(self.0.try_get_with_by_ref(name, read));
                    read.await.map_err(|error: std::sync::Arc<BackendError>| (*error).clone())?
                }
            };
            if entry.read_at >= changes.last(name).await {
                return Ok(entry.value);
            }
            self.0.invalidate(name).await;
        }
        Err(BackendError::Unavailable)
    }

    /// Without it, expired values stay until further look-ups.
    pub(super) async fn remove_expired(&self) {
        self.0.run_pending_tasks().await;
    }
}

impl Invalidations {
    pub(super) fn new() -> Invalidations {
        let names = Cache::builder()
            .max_capacity(limits::APPS_CACHED_MAX)
            .time_to_live(limits::APP_CACHE_TTL + limits::SCRIPT_DEADLINE)
            .build();
        Invalidations { count: AtomicU64::new(0), all: AtomicU64::new(0), names }
    }

    pub(super) async fn invalidate(&self, name: &str) {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.names.insert(name.to_owned(), count).await;
    }

    pub(super) fn invalidate_all(&self) {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.all.fetch_max(count, Ordering::AcqRel);
    }

    pub(super) async fn remove_expired(&self) {
        self.names.run_pending_tasks().await;
    }

    async fn last(&self, name: &str) -> u64 {
        self.names.get(name).await.unwrap_or(0).max(self.all.load(Ordering::Acquire))
    }
}

struct ByValue;

impl<V: Lifetime> Expiry<String, CacheEntry<V>> for ByValue {
    fn expire_after_create(&self, _: &String, entry: &CacheEntry<V>, _: Instant) -> Option<Duration> {
        Some(entry.value.lifetime())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;

    impl Lifetime for usize {
        fn lifetime(&self) -> Duration {
            Duration::from_secs(60)
        }
    }

    /// A source that counts how often it is read.
    #[derive(Default)]
    struct Source(AtomicUsize);

    impl Source {
        fn read(&self) -> std::future::Ready<Result<usize, BackendError>> {
            std::future::ready(Ok(self.0.fetch_add(1, Ordering::Relaxed) + 1))
        }
    }

    #[tokio::test]
    async fn value_is_read_again_after_a_change_of_its_name() {
        let (cache, changes, source) = (AppCache::new(), Invalidations::new(), Source::default());
        let get = async |name| cache.get(name, &changes, || source.read()).await.expect("a value");
        assert_eq!((get("a").await, get("a").await), (1, 1));
        changes.invalidate("b").await;
        assert_eq!(get("a").await, 1);
        changes.invalidate("a").await;
        assert_eq!((get("a").await, get("a").await), (2, 2));
        changes.invalidate_all();
        assert_eq!((get("a").await, get("a").await), (3, 3));
    }

    /// The stale value arrives after the change, while two callers wait for it.
    #[tokio::test]
    async fn value_read_during_a_change_is_discarded() {
        let (cache, changes, source) = (AppCache::new(), Invalidations::new(), Source::default());
        let gate = Semaphore::new(0);
        let read = async || {
            let value = source.read().await;
            gate.acquire().await.expect("open").forget();
            value
        };
        let early = cache.get("a", &changes, read);
        let change = async {
            tokio::task::yield_now().await;
            changes.invalidate("a").await;
            gate.add_permits(10);
            cache.get("a", &changes, read).await
        };
        let (early, late) = tokio::join!(early, change);
        assert!(early.expect("a value") > 1 && late.expect("a value") > 1);
    }

    #[tokio::test]
    async fn errors_are_not_cached() {
        let (cache, changes) = (AppCache::<usize>::new(), Invalidations::new());
        let unavailable = cache.get("a", &changes, async || Err(BackendError::Unavailable)).await;
        assert_eq!(unavailable, Err(BackendError::Unavailable));
        assert_eq!(cache.get("a", &changes, async || Ok(1)).await, Ok(1));
    }
}
