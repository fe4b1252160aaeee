//! The filters of subscriptions, and their cost for a channel and for an app on this node.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Weak};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Filter;
use crate::capacity::Shrink;
use crate::limits;

/// The filter of subscriptions to a channel. It counts for the channel and for the app until the
/// last clone is dropped.
#[derive(Debug, Clone)]
pub struct AdmittedFilter(Arc<Admitted>);

#[derive(Debug)]
struct Admitted {
    filter: Arc<Filter>,
    _channel: OwnedSemaphorePermit,
    _app: OwnedSemaphorePermit,
}

/// The cost of the filters of an app on this node.
#[derive(Debug, Clone)]
pub struct AppFilters(Arc<Semaphore>);

/// The distinct filters of a channel's subscriptions on this node, those that wait for their
/// confirmation included.
#[derive(Debug)]
pub struct ChannelFilters {
    /// Filters whose last clone was dropped are removed when their number has doubled.
    admitted: HashMap<Arc<Filter>, Weak<Admitted>>,
    purge_at: usize,
    cost: Arc<Semaphore>,
}

/// A filter would exceed a limit together with those that the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OverBudget {
    #[error(
        "the filters of this channel have reached their limit of cost (limit: {})",
        limits::CHANNEL_FILTERS_COST_MAX
    )]
    Channel,
    #[error(
        "the filters of this app have reached their limit of cost (limit: {})",
        limits::APP_FILTERS_COST_MAX
    )]
    App,
}

const PURGE_MIN: usize = 16;

impl Default for AppFilters {
    fn default() -> AppFilters {
        AppFilters(Arc::new(Semaphore::new(limits::APP_FILTERS_COST_MAX)))
    }
}

impl AppFilters {
    /// No filter counts for the app.
    pub fn is_empty(&self) -> bool {
        self.0.available_permits() == limits::APP_FILTERS_COST_MAX
    }
}

impl Default for ChannelFilters {
    fn default() -> ChannelFilters {
        let cost = Arc::new(Semaphore::new(limits::CHANNEL_FILTERS_COST_MAX));
        ChannelFilters { admitted: HashMap::new(), purge_at: PURGE_MIN, cost }
    }
}

impl ChannelFilters {
    /// Returns the shared filter that is equal to `filter`. A new one counts for the channel and
    /// the app.
    ///
    /// # Errors
    ///
    /// [`OverBudget`] if its cost does not fit.
    pub fn admit(&mut self, filter: Filter, app: &AppFilters) -> Result<AdmittedFilter, OverBudget> {
        if let Some(known) = self.admitted.get(&filter).and_then(Weak::upgrade) {
            return Ok(AdmittedFilter(known));
        }
        let cost = u32::try_from(filter.cost()).unwrap_or(u32::MAX);
        let channel = self.cost.clone().try_acquire_many_owned(cost).map_err(|_| OverBudget::Channel)?;
        let app = app.0.clone().try_acquire_many_owned(cost).map_err(|_| OverBudget::App)?;
        if self.admitted.len() >= self.purge_at {
            self.admitted.retain(|_, admitted| admitted.strong_count() > 0);
            self.purge_at = PURGE_MIN.max(2 * self.admitted.len());
            self.admitted.shrink_if_sparse();
        }
        let filter = Arc::new(filter);
        let admitted = Arc::new(Admitted { filter: filter.clone(), _channel: channel, _app: app });
        self.admitted.insert(filter, Arc::downgrade(&admitted));
        Ok(AdmittedFilter(admitted))
    }
}

impl Deref for AdmittedFilter {
    type Target = Filter;

    fn deref(&self) -> &Filter {
        &self.0.filter
    }
}

impl PartialEq for AdmittedFilter {
    fn eq(&self, other: &AdmittedFilter) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self == **other
    }
}

impl Eq for AdmittedFilter {}

impl Hash for AdmittedFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(value: usize, searches: usize) -> Filter {
        let search = |at| format!(r#"{{"key":"k","cmp":"ct","val":"{value}-{at}"}}"#);
        let nodes: Vec<String> = (0..searches).map(search).collect();
        match searches {
            0 => Filter::parse(&format!(r#"{{"key":"k","cmp":"eq","val":{value}}}"#)),
            _ => Filter::parse(&format!(r#"{{"op":"or","nodes":[{}]}}"#, nodes.join(","))),
        }
        .expect("a valid filter")
    }

    #[test]
    fn equal_filters_count_once_until_the_last_is_dropped() {
        let (mut channel, app) = (ChannelFilters::default(), AppFilters::default());
        let one = channel.admit(filter(1, 0), &app).expect("it fits");
        let same = channel.admit(filter(1, 0), &app).expect("it fits");
        assert!(Arc::ptr_eq(&one.0, &same.0) && one == same);
        assert_eq!(app.0.available_permits(), limits::APP_FILTERS_COST_MAX - 1);
        drop(one);
        assert!(!app.is_empty());
        drop(same);
        assert!(app.is_empty());
    }

    #[test]
    fn cost_of_a_channel_is_bounded_and_returned() {
        let (mut channel, app) = (ChannelFilters::default(), AppFilters::default());
        let most = limits::FILTER_COST_MAX / limits::FILTER_SEARCH_COST;
        let fit = limits::CHANNEL_FILTERS_COST_MAX / limits::FILTER_COST_MAX;
        let mut admitted: Vec<AdmittedFilter> =
            (0..fit).map(|n| channel.admit(filter(n, most), &app).expect("it fits")).collect();
        assert_eq!(channel.admit(filter(fit, 0), &app), Err(OverBudget::Channel));
        assert!(channel.admit(filter(0, most), &app).is_ok(), "an equal filter costs nothing");
        assert!(ChannelFilters::default().admit(filter(fit, 0), &app).is_ok(), "of another channel");
        admitted.pop();
        assert!(channel.admit(filter(fit, most), &app).is_ok());
    }

    #[test]
    fn cost_of_an_app_is_bounded_over_its_channels() {
        let app = AppFilters::default();
        let most = limits::FILTER_COST_MAX / limits::FILTER_SEARCH_COST;
        let mut channels = Vec::new();
        let mut admitted = Vec::new();
        for n in 0..limits::APP_FILTERS_COST_MAX / limits::FILTER_COST_MAX {
            let mut channel = ChannelFilters::default();
            admitted.push(channel.admit(filter(n, most), &app).expect("it fits"));
            channels.push(channel);
        }
        assert_eq!(channels[0].admit(filter(1, 0), &app), Err(OverBudget::App));
        assert!(channels[0].admit(filter(1, 0), &AppFilters::default()).is_ok(), "of another app");
    }

    #[test]
    fn dropped_filters_are_forgotten() {
        let (mut channel, app) = (ChannelFilters::default(), AppFilters::default());
        let kept: Vec<_> = (0..10).map(|n| channel.admit(filter(n, 0), &app)).collect();
        for n in 10..10_000 {
            drop(channel.admit(filter(n, 0), &app).expect("it fits"));
        }
        assert!(channel.admitted.len() <= 2 * kept.len().max(PURGE_MIN));
        assert_eq!(app.0.available_permits(), limits::APP_FILTERS_COST_MAX - kept.len());
    }
}
