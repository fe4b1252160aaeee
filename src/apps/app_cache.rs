//! What was read of apps, as long as it holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::backend::BackendError;
use crate::limits;

/// Answers by name, for a while. At most [`limits::APPS_CACHED_MAX`]: the one that
/// is asked for least often is forgotten, and read again.
#[derive(Debug)]
pub(super) struct AppCache<V: Clone + Send + Sync + 'static>(Cache<String, CacheEntry<V>>);

#[derive(Debug, Clone)]
struct CacheEntry<V> {
    value: V,
    /// [`Invalidations::count`] before it was read.
    read_at: u64,
}

/// When names have changed, counted in changes: an answer that was being read
/// meanwhile may be the old one, however late it comes.
#[derive(Debug)]
pub(super) struct Invalidations {
    count: AtomicU64,
    /// Everything has, at this count.
    all: AtomicU64,
    /// Longer than any answer is remembered. Ids and keys together: a key that is
    /// somebody's id is read once too often.
    names: Cache<String, u64>,
}

/// What has an end of its own: that there is no app, above all.
pub(super) trait Lifetime {
    fn lifetime(&self) -> Duration;
}

impl<V: Lifetime + Clone + Send + Sync + 'static> AppCache<V> {
    pub(super) fn new() -> AppCache<V> {
        let cache = Cache::builder().max_capacity(limits::APPS_CACHED_MAX);
        AppCache(cache.expire_after(ByValue).build())
    }

    /// What is remembered, or what `read` says: once for all who ask at the same
    /// time. Never what was read before a change that is in `changes`.
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
            let answer = match self.0.get(name).await {
                Some(answer) => answer,
                None => {
                    let read = async {
                        let read_at = changes.count.load(Ordering::Acquire);
                        Ok(CacheEntry { value: read().await?, read_at })
                    };
                    // Boxed: the future of a Redis command is large, and nearly
                    // all who ask need none.
                    let read = Box::pin(self.0.try_get_with_by_ref(name, read));
                    read.await.map_err(|error: std::sync::Arc<BackendError>| (*error).clone())?
                }
            };
            if answer.read_at >= changes.last(name).await {
                return Ok(answer.value);
            }
            self.0.invalidate(name).await;
        }
        Err(BackendError::Unavailable)
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

    async fn last(&self, name: &str) -> u64 {
        self.names.get(name).await.unwrap_or(0).max(self.all.load(Ordering::Acquire))
    }
}

struct ByValue;

impl<V: Lifetime> Expiry<String, CacheEntry<V>> for ByValue {
    fn expire_after_create(&self, _: &String, answer: &CacheEntry<V>, _: Instant) -> Option<Duration> {
        Some(answer.value.lifetime())
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
    async fn it_is_read_again_after_a_change_of_this_name() {
        let (remembered, changes, source) = (AppCache::new(), Invalidations::new(), Source::default());
        let get = async |name| remembered.get(name, &changes, || source.read()).await.expect("an answer");
        assert_eq!((get("a").await, get("a").await), (1, 1));
        changes.invalidate("b").await;
        assert_eq!(get("a").await, 1);
        changes.invalidate("a").await;
        assert_eq!((get("a").await, get("a").await), (2, 2));
        changes.invalidate_all();
        assert_eq!((get("a").await, get("a").await), (3, 3));
    }

    /// The old answer arrives after the change was heard, while two wait for it.
    #[tokio::test]
    async fn what_was_being_read_during_a_change_is_not_believed() {
        let (remembered, changes, source) = (AppCache::new(), Invalidations::new(), Source::default());
        let gate = Semaphore::new(0);
        let read = async || {
            let value = source.read().await;
            gate.acquire().await.expect("open").forget();
            value
        };
        let early = remembered.get("a", &changes, read);
        let change = async {
            tokio::task::yield_now().await;
            changes.invalidate("a").await;
            gate.add_permits(10);
            remembered.get("a", &changes, read).await
        };
        let (early, late) = tokio::join!(early, change);
        assert!(early.expect("an answer") > 1 && late.expect("an answer") > 1);
    }

    #[tokio::test]
    async fn errors_are_not_remembered() {
        let (remembered, changes) = (AppCache::<usize>::new(), Invalidations::new());
        let away = remembered.get("a", &changes, async || Err(BackendError::Unavailable)).await;
        assert_eq!(away, Err(BackendError::Unavailable));
        assert_eq!(remembered.get("a", &changes, async || Ok(1)).await, Ok(1));
    }
}
