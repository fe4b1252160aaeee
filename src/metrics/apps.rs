//! Metrics of single apps, with the label `app`. The largest apps have series of their own; the
//! sum of all others has the label `other`.
//!
//! A counter is an addition to a field that the app carries. A scrape moves what was added since
//! the last one to the series of the app or of the others: no series ever decreases, also
//! when an app becomes one of the largest, or no longer is.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use super::Metric;
use crate::limits;

/// The label of all apps without series of their own.
const OTHER: &str = "other";

/// A counter or gauge of one app.
#[derive(Debug, Default)]
pub struct AppValue(AtomicU64);

impl AppValue {
    pub fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! app_metrics {
    ($($kind:ident $field:ident $name:literal $help:literal)*) => {
        /// The metrics of one app.
        #[derive(Debug, Default)]
        pub struct AppMetrics {
            $(#[doc = $help] pub $field: AppValue,)*
            /// The sum of subscriptions while they are counted.
            counting: AtomicU64,
        }

        /// The metrics with the label `app`, for the reference page.
        pub const CATALOGUE: &[Metric] = &[$(Metric {
            name: $name,
            kind: stringify!($kind),
            unit: "Count",
            help: $help,
        },)*];

        type Values = [u64; CATALOGUE.len()];

        impl AppMetrics {
            /// In the order of [`CATALOGUE`].
            fn values(&self) -> Values {
                [$(self.$field.get(),)*]
            }
        }
    };
}

app_metrics! {
    gauge connections "fanfare_app_connections" "Open WebSocket connections of the app on this node."
    gauge subscriptions "fanfare_app_subscriptions" "Subscriptions of these connections."
    counter connections_opened "fanfare_app_connections_opened_total" "WebSocket connections of the app accepted."
    counter requests_refused "fanfare_app_requests_refused_total" "API requests of the app with a 4xx response."
    counter requests_failed "fanfare_app_requests_failed_total" "API requests of the app with a 5xx response."
    counter requests_rate_limited "fanfare_app_requests_rate_limited_total" "API requests of the app with a 429 response."
    counter events_published "fanfare_app_events_published_total" "Events of the app published over HTTP, multiplied by their channels."
    counter deliveries "fanfare_app_deliveries_total" "Events of the app delivered to connections: events multiplied by their subscribers."
    counter client_events "fanfare_app_client_events_total" "Client events of the app published."
    counter subscriptions_refused "fanfare_app_subscriptions_refused_total" "Subscriptions of the app refused."
    counter messages_refused "fanfare_app_messages_refused_total" "Messages of the app's clients with a `pusher:error` as reply."
    counter messages_rate_limited "fanfare_app_messages_rate_limited_total" "Messages of the app's clients refused by the rate limit of their connection."
    counter webhook_events_delivered "fanfare_app_webhook_events_delivered_total" "Webhook events of the app delivered, once per webhook."
    counter webhook_events_dropped "fanfare_app_webhook_events_dropped_total" "Webhook events of the app dropped because its outbox was full, after five minutes of failed calls (once per webhook), or in a format that this node cannot decode."
    counter webhook_calls_failed "fanfare_app_webhook_calls_failed_total" "Webhook calls of the app without a 2xx response."
}

/// The metrics of all apps of this process.
#[derive(Debug, Default)]
struct Registry {
    apps: HashMap<Box<str>, Registered>,
    /// The exported values of [`OTHER`].
    other: Values,
}

#[derive(Debug, Default)]
struct Registered {
    metrics: Arc<AppMetrics>,
    /// At the last scrape.
    seen: Values,
    /// The exported counters.
    exported: Values,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// The metrics of the app with this id: the same for every version of its settings.
pub fn of_app(id: &str) -> Arc<AppMetrics> {
    REGISTRY.lock().of_app(id)
}

impl AppMetrics {
    /// Counts subscriptions, until [`set_subscriptions`].
    pub fn count_subscriptions(&self, subscriptions: u64) {
        self.counting.fetch_add(subscriptions, Ordering::Relaxed);
    }
}

/// Sets the subscriptions of all apps to those that were counted since the last call.
pub fn set_subscriptions() {
    for app in REGISTRY.lock().apps.values() {
        app.metrics.subscriptions.set(app.metrics.counting.swap(0, Ordering::Relaxed));
    }
}

/// Appends all series in Prometheus' text format.
pub(super) fn render(out: &mut String) {
    REGISTRY.lock().render(out);
}

impl Registry {
    /// Above [`limits::APPS_COUNTED_MAX`], the metrics of an app are not exported.
    fn of_app(&mut self, id: &str) -> Arc<AppMetrics> {
        if let Some(app) = self.apps.get(id) {
            return app.metrics.clone();
        }
        let app = Registered::default();
        let metrics = app.metrics.clone();
        if self.apps.len() < limits::APPS_COUNTED_MAX {
            self.apps.insert(id.into(), app);
        }
        metrics
    }

    fn render(&mut self, out: &mut String) {
        let series = self.gather();
        for (index, Metric { name, kind, help, .. }) in CATALOGUE.iter().enumerate() {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (app, values) in &series {
                let _ = writeln!(out, "{name}{{app=\"{app}\"}} {}", values[index]);
            }
        }
    }

    /// The series of the largest apps, and of the others.
    fn gather(&mut self) -> Vec<(&str, Values)> {
        let Registry { apps, other } = self;
        let mut current: Vec<_> =
            apps.iter_mut().map(|(id, app)| (&**id, app.metrics.values(), app)).collect();
        current.sort_unstable_by_key(|(id, values, _)| (Reverse(activity(values)), *id));
        let mut series = Vec::with_capacity(current.len().min(limits::APPS_LABELLED_MAX) + 1);
        let mut gauges = Values::default();
        for (rank, (id, values, app)) in current.into_iter().enumerate() {
            let is_labelled = rank < limits::APPS_LABELLED_MAX && id != OTHER;
            let exported = if is_labelled { &mut app.exported } else { &mut *other };
            for index in (0..values.len()).filter(|index| !is_gauge(*index)) {
                exported[index] += values[index] - app.seen[index];
            }
            app.seen = values;
            match is_labelled {
                true => series.push((id, with_gauges(app.exported, &values))),
                false => (0..values.len()).for_each(|index| gauges[index] += values[index]),
            }
        }
        series.push((OTHER, with_gauges(*other, &gauges)));
        series
    }
}

/// The size of an app: its connections, and all that was counted since the start.
fn activity(values: &Values) -> u64 {
    values.iter().fold(0, |sum, value| sum.saturating_add(*value))
}

fn is_gauge(index: usize) -> bool {
    CATALOGUE[index].kind == "gauge"
}

/// Counters as exported, gauges as they are.
fn with_gauges(mut exported: Values, values: &Values) -> Values {
    for index in (0..values.len()).filter(|index| is_gauge(*index)) {
        exported[index] = values[index];
    }
    exported
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exported value of a metric, by label.
    fn exported(registry: &mut Registry, name: &str) -> HashMap<String, u64> {
        let mut text = String::new();
        registry.render(&mut text);
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{app=\""));
        let pairs = lines.map(|line| line.split_once("\"} ").expect("a label and a value"));
        pairs.map(|(app, value)| (app.to_owned(), value.parse().expect("a number"))).collect()
    }

    const DELIVERIES: &str = "fanfare_app_deliveries_total";

    #[test]
    fn largest_apps_have_series_and_others_are_summed() {
        let mut registry = Registry::default();
        for number in 0..limits::APPS_LABELLED_MAX + 10 {
            let app = registry.of_app(&format!("app{number}"));
            app.deliveries.increment(number as u64 + 1);
            app.connections.set(2);
        }
        let deliveries = exported(&mut registry, DELIVERIES);
        assert_eq!(deliveries.len(), limits::APPS_LABELLED_MAX + 1);
        assert_eq!(deliveries["other"], (1..=10).sum::<u64>());
        assert_eq!(exported(&mut registry, "fanfare_app_connections")["other"], 20);
        assert!(!deliveries.contains_key("app9") && deliveries["app10"] == 11);
    }

    /// Otherwise Prometheus would take the decrease for a restart.
    #[test]
    fn no_counter_decreases_when_an_app_becomes_one_of_the_largest() {
        let mut registry = Registry::default();
        let apps: Vec<_> =
            (0..=limits::APPS_LABELLED_MAX).map(|it| registry.of_app(&format!("app{it}"))).collect();
        let (mut last, mut total) = (HashMap::<String, u64>::new(), 0);
        for round in 0..200 {
            // Each app in turn is the largest.
            let added = 1_000 * round as u64;
            apps[round * 7 % apps.len()].deliveries.increment(added);
            total += added;
            for (app, value) in exported(&mut registry, DELIVERIES) {
                let before = last.insert(app.clone(), value).unwrap_or(0);
                assert!(value >= before, "{app} from {before} to {value}");
            }
            assert_eq!(last.values().sum::<u64>(), total, "every increment is exported once");
        }
    }

    #[test]
    fn app_named_other_has_no_series_of_its_own() {
        let mut registry = Registry::default();
        registry.of_app("other").deliveries.increment(3);
        assert_eq!(exported(&mut registry, DELIVERIES), HashMap::from([("other".to_owned(), 3)]));
    }

    #[test]
    fn versions_of_an_app_share_their_metrics_and_the_number_of_apps_is_bounded() {
        let mut registry = Registry::default();
        assert!(Arc::ptr_eq(&registry.of_app("1"), &registry.of_app("1")));
        for number in 0..limits::APPS_COUNTED_MAX + 10 {
            registry.of_app(&number.to_string()).deliveries.increment(1);
        }
        assert_eq!(registry.apps.len(), limits::APPS_COUNTED_MAX);
    }
}
