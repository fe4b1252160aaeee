//! All metrics with their exported names. Every module may increment them.
//!
//! Gauges are set from the structures that they describe, never incremented and
//! decremented, so they cannot drift.

pub mod apps;
pub mod process;
mod striped;

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use striped::Striped;

/// The documentation of one metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// `Count`, `Bytes` or `Seconds`.
    pub unit: &'static str,
    pub help: &'static str,
}

/// The names of all metrics, those with labels included.
pub fn names() -> impl Iterator<Item = &'static str> {
    let labelled = ["fanfare_connections_closed_total", "fanfare_build_info", RELOADS, WEBHOOK_CALLS_FAILED];
    CATALOGUE
        .iter()
        .chain(apps::CATALOGUE)
        .chain(process::CATALOGUE)
        .map(|metric| metric.name)
        .chain(labelled)
}

macro_rules! catalogue {
    ($($kind:ident $field:ident $name:literal $unit:ident $help:literal)*) => {
        /// Handles, created once: an increment is one atomic addition.
        #[derive(Clone)]
        #[allow(missing_debug_implementations, reason = "the handles have no state to show")]
        pub struct Metrics { $(#[doc = $help] pub $field: catalogue!(@type $kind),)* }

        impl Metrics {
            fn register() -> Metrics {
                $(catalogue!(@describe $kind $name $unit $help);)*
                Metrics { $($field: catalogue!(@make $kind $name),)* }
            }
        }

        /// Every metric without labels, for the reference page.
        pub const CATALOGUE: &[Metric] = &[$(Metric {
            name: $name,
            kind: catalogue!(@kind $kind),
            unit: stringify!($unit),
            help: $help,
        },)*];
    };
    (@kind striped) => { "counter" };
    (@kind $kind:ident) => { stringify!($kind) };
    (@type counter) => { Counter };
    (@type striped) => { Striped };
    (@type gauge) => { Gauge };
    (@type histogram) => { Histogram };
    (@make counter $name:literal) => { counter!($name) };
    (@make striped $name:literal) => { Striped::new(counter!($name)) };
    (@make gauge $name:literal) => { gauge!($name) };
    (@make histogram $name:literal) => { histogram!($name) };
    (@describe counter $name:literal $unit:ident $help:literal) => { describe_counter!($name, Unit::$unit, $help) };
    (@describe striped $name:literal $unit:ident $help:literal) => { describe_counter!($name, Unit::$unit, $help) };
    (@describe gauge $name:literal $unit:ident $help:literal) => { describe_gauge!($name, Unit::$unit, $help) };
    (@describe histogram $name:literal $unit:ident $help:literal) => { describe_histogram!($name, Unit::$unit, $help) };
}

catalogue! {
    gauge connections "fanfare_connections" Count "Open WebSocket connections of this node."
    counter connections_opened "fanfare_connections_opened_total" Count "WebSocket connections accepted."
    gauge channels "fanfare_channels" Count "Channels whose topics this node is subscribed to."
    gauge jobs_queued "fanfare_jobs_queued" Count "Backend calls of channels that wait until fewer of their kind are in flight."
    gauge channels_without_deltas "fanfare_channels_without_deltas" Count "Channels of this node whose deltas are switched off because they saved too few bytes."
    gauge subscriptions "fanfare_subscriptions" Count "Subscriptions of the connections of this node."
    gauge connections_awaiting_writer "fanfare_connections_awaiting_writer" Count "Connections with frames to send in the queue of the writer pool."
    counter subscriptions_refused "fanfare_subscriptions_refused_total" Count "Subscriptions refused: wrong signature, or an invalid or disallowed channel."
    counter batches_published "fanfare_batches_published_total" Count "Batches published over HTTP; a single event is a batch of one."
    counter events_published "fanfare_events_published_total" Count "Events published over HTTP, multiplied by their channels."
    histogram publish_duration_seconds "fanfare_publish_duration_seconds" Seconds "Time from a validated batch to its confirmation by the backend, in seconds."
    counter publishes_delayed "fanfare_publishes_delayed_total" Count "Batches that waited for earlier batches of their app."
    counter publishes_refused "fanfare_publishes_refused_total" Count "Batches refused because earlier batches of their app took too long."
    counter requests_refused "fanfare_requests_refused_total" Count "API requests with a 4xx response."
    counter requests_failed "fanfare_requests_failed_total" Count "API requests with a 5xx response."
    gauge http_connections "fanfare_http_connections" Count "Open HTTP connections of this node; a WebSocket counts until an app has admitted it."
    counter http_connections_refused "fanfare_http_connections_refused_total" Count "HTTP connections, and requests behind trusted proxies, refused or closed at a limit of HTTP connections."
    counter http_connections_reserve "fanfare_http_connections_reserve_total" Count "HTTP connections served from the reserve: one request each, while the node has no place for more."
    counter accepts_failed "fanfare_accepts_failed_total" Count "Connections that the node could not accept, mostly because it had no file descriptor left."
    counter http_writes_timed_out "fanfare_http_writes_timed_out_total" Count "HTTP connections closed because the client read nothing of its responses for 30 s."
    counter unsigned_requests_delayed "fanfare_unsigned_requests_delayed_total" Count "Responses to requests without a valid signature that waited, because their address sent too many."
    counter requests_rate_limited "fanfare_requests_rate_limited_total" Count "API requests with a 429 response: rate limit of the app exceeded."
    counter rate_limits_unenforced "fanfare_rate_limits_unenforced_total" Count "API requests admitted without a rate limit check because the backend was unreachable."
    counter connection_limits_unenforced "fanfare_connection_limits_unenforced_total" Count "Reports of an app's connections that failed; connections were admitted without the cluster-wide limit."
    counter auth_failures "fanfare_auth_failures_total" Count "API requests, subscriptions and sign-ins with wrong credentials."
    counter entries_received "fanfare_entries_received_total" Count "Channel entries received from the backend."
    counter entries_duplicate "fanfare_entries_duplicate_total" Count "Channel entries received more than once and delivered once."
    counter entries_unreadable "fanfare_entries_unreadable_total" Count "Channel entries in a version or format that this node cannot decode."
    counter backend_events_dropped "fanfare_backend_events_dropped_total" Count "Channel entries dropped because the queue of backend events was full; read from the history later."
    counter gaps "fanfare_gaps_total" Count "Gaps in the sequence of a channel's entries."
    counter gaps_repaired "fanfare_gaps_repaired_total" Count "Gaps repaired from the channel's history."
    counter gaps_unrepaired "fanfare_gaps_unrepaired_total" Count "Gaps older than the channel's history: subscribers may have missed events."
    counter rosters_read "fanfare_rosters_read_total" Count "Rosters of presence channels read from the backend."
    counter members_refused "fanfare_members_refused_total" Count "Subscriptions to presence channels refused because the channel was full."
    counter channels_refused "fanfare_channels_refused_total" Count "Subscriptions refused because the app had too many channels: occupied ones in the cluster, or any on this node."
    counter epochs_opened "fanfare_epoch_changes_total" Count "Channel histories that restarted or forked, for example after a loss of data in Redis."
    counter deliveries "fanfare_deliveries_total" Count "Events delivered to connections: events multiplied by their subscribers."
    counter write_buffer_overflows "fanfare_write_buffer_overflows_total" Count "Connections closed with 4100 because the client read too slowly."
    counter subscriptions_delayed "fanfare_subscriptions_delayed_total" Count "Subscribe commands that waited for the budget of their connection, or for the pending subscriptions of their app."
    counter held_entries_dropped "fanfare_held_entries_dropped_total" Count "Channel entries dropped from the buffer of a gap repair or a pending subscription; the gap is repaired or counted."
    striped bytes_sent "fanfare_bytes_sent_total" Bytes "Bytes written to WebSocket connections."
    striped writes "fanfare_writes_total" Count "Write calls on WebSocket connections."
    counter deltas_encoded "fanfare_deltas_encoded_total" Count "Deltas encoded, once per event, base and format for any number of connections."
    counter delta_full_bytes "fanfare_delta_full_bytes_total" Bytes "Bytes of the full frames of events for which a delta was encoded, once per delta."
    counter delta_sent_bytes "fanfare_delta_sent_bytes_total" Bytes "Bytes of the frames chosen for these events: the delta, or the full frame where the delta saves too little."
    counter chains_evicted "fanfare_chains_evicted_total" Count "Delta chains of conflation keys evicted because a channel had too many; the next event of each is sent in full."
    counter deltas_skipped "fanfare_deltas_skipped_total" Count "Events sent in full to subscribers with deltas: no base, interval event, too small, or disabled."
    counter delta_toggles "fanfare_delta_toggles_total" Count "Switches of a channel's deltas to off or on, as received by this node."
    counter filter_evaluations "fanfare_filter_evaluations_total" Count "Filter evaluations, once per event and distinct filter for any number of connections."
    counter filters_refused "fanfare_filters_refused_total" Count "Subscriptions refused because the filters of the channel or of the app had reached their limit of cost."
    counter filter_entries_delayed "fanfare_filter_entries_delayed_total" Count "Channel entries that waited because the filters of their app had used up their share of the node's time."
    counter filter_entries_dropped "fanfare_filter_entries_dropped_total" Count "Channel entries dropped because too many entries of their app waited for its filters; the channel continues at its head."
    counter resumes "fanfare_resumes_total" Count "Subscriptions resumed with all missed events."
    counter resumes_failed "fanfare_resumes_failed_total" Count "Subscriptions not resumed: the client had no valid token, or the history no longer had the missed events."
    counter resumes_too_large "fanfare_resumes_too_large_total" Count "Subscriptions not resumed because the missed events would not fit in the write buffer."
    counter position_notices "fanfare_position_notices_total" Count "Position notices sent, once per channel and group of subscribers."
    counter cache_syncs "fanfare_cache_syncs_total" Count "New subscribers that were sent initial bases for deltas."
    counter delta_resyncs "fanfare_delta_resyncs_total" Count "`pusher:delta_sync_error` messages that reset a subscription's base."
    counter delta_resyncs_ignored "fanfare_delta_resyncs_ignored_total" Count "`pusher:delta_sync_error` messages ignored because they came within a second of another."
    counter client_events "fanfare_client_events_total" Count "Client events published."
    counter messages_rate_limited "fanfare_messages_rate_limited_total" Count "Messages of clients refused by the rate limit of their connection, client events included."
    counter signins "fanfare_signins_total" Count "Connections signed in as a user."
    counter messages_refused "fanfare_messages_refused_total" Count "Messages of clients with a `pusher:error` as reply."
    counter redis_reconnects "fanfare_redis_reconnects_total" Count "Reconnects to Redis."
    counter redis_links_reconnected "fanfare_redis_links_reconnected_total" Count "Connections to Redis that this node opened again because they did not answer, or because Redis refused writes."
    counter redis_resends "fanfare_redis_resends_total" Count "Scripts resent to Redis with the same operation id."
    counter redis_unknown "fanfare_redis_outcome_unknown_total" Count "API requests with a 503 `outcome_unknown` response."
    counter redis_unavailable "fanfare_redis_unavailable_total" Count "API requests with a 503 response because Redis was unavailable."
    counter probe_failures "fanfare_probe_failures_total" Count "Reconnects of the listening connection because this node did not receive its own probe."
    counter head_checks "fanfare_head_checks_total" Count "Channels compared with their heads in Redis."
    counter membership_updates "fanfare_membership_updates_total" Count "Membership updates sent to the backend."
    counter webhook_events_dropped "fanfare_webhook_events_dropped_total" Count "Webhook events dropped because the outbox of their app and partition was full, or in a format that this node cannot decode."
    counter leases_lost "fanfare_leases_lost_total" Count "Times that this node lost its lease or was fenced, and took a new incarnation."
    counter nodes_swept "fanfare_nodes_swept_total" Count "Dead nodes whose memberships this node removed."
    counter app_lookups "fanfare_app_lookups_total" Count "App ids and keys looked up in Redis."
    counter app_lookups_refused "fanfare_app_lookups_refused_total" Count "App look-ups refused because too many were in progress."
    counter app_changes "fanfare_app_changes_total" Count "Change notifications for apps in Redis."
    counter webhook_events_delivered "fanfare_webhook_events_delivered_total" Count "Webhook events delivered, once per webhook."
    counter webhook_events_abandoned "fanfare_webhook_events_abandoned_total" Count "Webhook events dropped after five minutes of failed calls, once per webhook."
    counter webhook_events_orphaned "fanfare_webhook_events_orphaned_total" Count "Webhook events dropped because their app or webhook was removed."
    gauge webhook_events_pending "fanfare_webhook_events_pending" Count "Webhook events that this node has read and not yet removed from the outbox."
    gauge webhook_circuits_open "fanfare_webhook_circuits_open" Count "Webhooks of this node whose circuit is open: their calls have failed, and only probes are sent."
    gauge redis_memory_used "fanfare_redis_memory_used_bytes" Bytes "Memory that Redis uses, read every 5 s."
    gauge redis_memory_max "fanfare_redis_memory_max_bytes" Bytes "`maxmemory` of Redis; 0 without a limit."
    gauge nodes "fanfare_nodes" Count "Live nodes of the cluster, as observed by this node."
    gauge config_last_reload_successful "fanfare_config_last_reload_successful" Count "1 if the last load of the configuration, at start or after SIGHUP, was successful, otherwise 0."
    gauge config_last_reload_success "fanfare_config_last_reload_success_timestamp_seconds" Seconds "Time of the last successful load of the configuration, in seconds since 1970."
    gauge ready "fanfare_ready" Count "1 while `/ready` returns 200, otherwise 0."
}

/// The handles. Before [`install`], increments have no effect.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::register)
}

/// Counts a connection closed by the server or its client, by reason.
pub fn connection_closed(reason: &'static str) {
    counter!("fanfare_connections_closed_total", "reason" => reason).increment(1);
}

const RELOADS: &str = "fanfare_config_reloads_total";

/// Counts a reload of the configuration.
pub fn config_reloaded() {
    counter!(RELOADS, "result" => "success").increment(1);
    config_loaded();
}

/// Notes a successful load of the configuration.
pub fn config_loaded() {
    metrics().config_last_reload_successful.set(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics().config_last_reload_success.set(now.as_secs_f64());
}

/// Counts a reload of a configuration with mistakes.
pub fn config_refused() {
    counter!(RELOADS, "result" => "failure").increment(1);
    metrics().config_last_reload_successful.set(0);
}

const WEBHOOK_CALLS_FAILED: &str = "fanfare_webhook_calls_failed_total";

/// Counts a webhook call without a 2xx response, by host of the receiver and cause.
pub fn webhook_call_failed(host: &str, cause: &'static str) {
    counter!(WEBHOOK_CALLS_FAILED, "host" => host.to_owned(), "cause" => cause).increment(1);
}

/// The body of `/metrics`, in Prometheus' text format.
pub fn render() -> String {
    let handle = install();
    metrics().bytes_sent.gather();
    metrics().writes.gather();
    let mut text = handle.render();
    process::render(&mut text);
    apps::render(&mut text);
    text
}

/// Installs the recorder, once per process.
pub fn install() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Suffix("_seconds".into()),
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            )
            .expect("the buckets are not empty")
            .install_recorder()
            .expect("this is the only recorder of the process");
        describe_counter!(
            "fanfare_connections_closed_total",
            Unit::Count,
            "WebSocket connections closed, by reason."
        );
        describe_counter!(RELOADS, Unit::Count, "Reloads of the configuration after SIGHUP, by result.");
        for result in ["success", "failure"] {
            counter!(RELOADS, "result" => result).increment(0);
        }
        describe_counter!(
            WEBHOOK_CALLS_FAILED,
            Unit::Count,
            "Webhook calls without a 2xx response, by host and cause."
        );
        describe_gauge!("fanfare_build_info", Unit::Count, "1, with the version and the platform as labels.");
        let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
        gauge!("fanfare_build_info", "version" => env!("CARGO_PKG_VERSION"), "arch" => arch, "os" => os)
            .set(1);
        process::start();
        metrics();
        handle
    })
}
