//! Every counter, with its name as seen outside. Anyone may touch them.
//!
//! Gauges are set from the structures they describe, never counted up and down,
//! so they cannot drift.

mod striped;

use std::sync::OnceLock;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use striped::Striped;

/// What is documented of one metric.
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
    let labelled = ["fanfare_connections_closed_total", "fanfare_build_info"];
    CATALOGUE.iter().map(|metric| metric.name).chain(labelled)
}

macro_rules! catalogue {
    ($($kind:ident $field:ident $name:literal $unit:ident $help:literal)*) => {
        /// Handles, made once: an increment is one atomic addition.
        #[derive(Clone)]
        #[allow(missing_debug_implementations, reason = "the handles have nothing to show")]
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
    gauge connections "fanfare_connections" Count "Open WebSockets on this node."
    counter connections_opened "fanfare_connections_opened_total" Count "WebSockets accepted."
    gauge channels "fanfare_channels" Count "Channels this node listens to."
    gauge channels_without_deltas "fanfare_channels_without_deltas" Count "Of these, channels where deltas are off because of what they save."
    gauge subscriptions "fanfare_subscriptions" Count "Subscriptions of this node's sockets."
    gauge connections_awaiting_writer "fanfare_connections_awaiting_writer" Count "Sockets of a crowd that have something to be sent and no thread yet that writes it."
    counter subscriptions_refused "fanfare_subscriptions_refused_total" Count "Subscriptions refused: bad signature, kind or name."
    counter batches_published "fanfare_batches_published_total" Count "Batches accepted over HTTP; a single event is a batch of one."
    counter events_published "fanfare_events_published_total" Count "Events accepted over HTTP, times their channels."
    histogram publish_duration_seconds "fanfare_publish_duration_seconds" Seconds "From a checked batch to the backend's yes."
    counter requests_refused "fanfare_requests_refused_total" Count "API requests answered with 4xx."
    counter requests_failed "fanfare_requests_failed_total" Count "API requests answered with 5xx."
    counter requests_rate_limited "fanfare_requests_rate_limited_total" Count "API requests answered with 429, because the app had used up its rate."
    counter rate_limits_unenforced "fanfare_rate_limits_unenforced_total" Count "API requests let pass because nobody could say where the app stood."
    counter connection_limits_unenforced "fanfare_connection_limits_unenforced_total" Count "Times connections were let in without being counted in the cluster."
    counter auth_failures "fanfare_auth_failures_total" Count "Requests and subscriptions with wrong credentials."
    counter entries_received "fanfare_entries_received_total" Count "Entries that reached this node."
    counter entries_duplicate "fanfare_entries_duplicate_total" Count "Entries heard twice and delivered once."
    counter entries_unreadable "fanfare_entries_unreadable_total" Count "Entries of a version or form this node cannot read."
    counter backend_events_dropped "fanfare_backend_events_dropped_total" Count "Entries dropped because the inbox was full; read from the log later."
    counter gaps "fanfare_gaps_total" Count "Times a channel's entries did not connect."
    counter gaps_repaired "fanfare_gaps_repaired_total" Count "Gaps closed from the channel's log."
    counter gaps_unrepaired "fanfare_gaps_unrepaired_total" Count "Gaps whose events the log no longer had: events may be lost."
    counter rosters_read "fanfare_rosters_read_total" Count "Rosters of presence channels read from the backend."
    counter members_refused "fanfare_members_refused_total" Count "Subscriptions to presence channels that had as many members as they may."
    counter epochs_opened "fanfare_epoch_changes_total" Count "Times a channel's history began anew or forked."
    counter deliveries "fanfare_deliveries_total" Count "Events handed to sockets."
    counter write_buffer_overflows "fanfare_write_buffer_overflows_total" Count "Sockets closed with 4100 because they read too slowly."
    counter pending_subscription_overflows "fanfare_pending_subscription_overflows_total" Count "Sockets closed with 4100 because too many subscriptions waited for the backend."
    counter held_entries_dropped "fanfare_held_entries_dropped_total" Count "Entries let go while a log was read or a join was under way; the gap is repaired or counted."
    striped bytes_sent "fanfare_bytes_sent_total" Bytes "Bytes written to sockets."
    striped writes "fanfare_writes_total" Count "Write calls to sockets."
    counter deltas_encoded "fanfare_deltas_encoded_total" Count "Deltas computed: once per event, however many sockets."
    counter delta_full_bytes "fanfare_delta_full_bytes_total" Bytes "What events would have taken in full for which a delta was computed: once per event, however many sockets."
    counter delta_sent_bytes "fanfare_delta_sent_bytes_total" Bytes "What they take as they are sent, as deltas where that pays."
    counter chains_evicted "fanfare_chains_evicted_total" Count "Chains of conflation keys forgotten because a channel has too many; the next event of each is full."
    counter deltas_skipped "fanfare_deltas_skipped_total" Count "Events sent in full to delta sockets: no base, interval, size or setting."
    counter delta_toggles "fanfare_delta_toggles_total" Count "Times this node heard that deltas were switched off or on for a channel because of what they save."
    counter filter_evaluations "fanfare_filter_evaluations_total" Count "Filters evaluated: once per event and distinct filter of a channel, however many sockets."
    counter resumes "fanfare_resumes_total" Count "Subscriptions resumed: everything missed was sent."
    counter resumes_failed "fanfare_resumes_failed_total" Count "Subscriptions that could not be resumed and were told so."
    counter resumes_too_large "fanfare_resumes_too_large_total" Count "Subscriptions not resumed because what they missed would not fit their write_buffer."
    counter position_notices "fanfare_position_notices_total" Count "Positions told without an event, once per channel and audience."
    counter cache_syncs "fanfare_cache_syncs_total" Count "Subscribers that were sent bases when they joined."
    counter delta_resyncs "fanfare_delta_resyncs_total" Count "`pusher:delta_sync_error` honoured."
    counter delta_resyncs_ignored "fanfare_delta_resyncs_ignored_total" Count "`pusher:delta_sync_error` sent again within a second."
    counter client_events "fanfare_client_events_total" Count "Client events announced."
    counter messages_rate_limited "fanfare_messages_rate_limited_total" Count "Client messages and client events refused because a connection sent too many."
    counter signins "fanfare_signins_total" Count "Connections signed in as a user."
    counter messages_refused "fanfare_messages_refused_total" Count "Client messages answered with `pusher:error`."
    counter redis_reconnects "fanfare_redis_reconnects_total" Count "Connections to Redis made anew."
    counter redis_resends "fanfare_redis_resends_total" Count "Scripts sent again under the same operation id."
    counter redis_unknown "fanfare_redis_outcome_unknown_total" Count "Publishes answered 503 `outcome_unknown`."
    counter redis_unavailable "fanfare_redis_unavailable_total" Count "Publishes answered 503 because Redis was away."
    counter probe_failures "fanfare_probe_failures_total" Count "Times this node did not hear its own probe."
    counter head_checks "fanfare_head_checks_total" Count "Channels compared with their head."
    counter membership_updates "fanfare_membership_updates_total" Count "Memberships written to the backend."
    counter webhook_events_dropped "fanfare_webhook_events_dropped_total" Count "Webhook events dropped because their write_buffer was full."
    counter leases_lost "fanfare_leases_lost_total" Count "Times this node was swept, or its lease was gone."
    counter nodes_swept "fanfare_nodes_swept_total" Count "Dead nodes whose memberships this node took away."
    counter app_lookups "fanfare_app_lookups_total" Count "Ids and keys of apps looked up in Redis."
    counter app_lookups_refused "fanfare_app_lookups_refused_total" Count "Look-ups of apps given up because too many were under way."
    counter app_changes "fanfare_app_changes_total" Count "Times this node heard that apps in Redis may have changed."
    counter webhook_events_delivered "fanfare_webhook_events_delivered_total" Count "Webhook events that a receiver has taken, once per webhook."
    counter webhook_calls_failed "fanfare_webhook_calls_failed_total" Count "Calls to receivers of webhooks that were not answered with 2xx."
    counter webhook_events_abandoned "fanfare_webhook_events_abandoned_total" Count "Webhook events given up after five minutes of failed calls, once per webhook."
    counter webhook_events_orphaned "fanfare_webhook_events_orphaned_total" Count "Webhook events that were not delivered because their app or webhook is gone."
    gauge webhook_events_pending "fanfare_webhook_events_pending" Count "Webhook events that this node has read and not yet delivered."
    gauge nodes "fanfare_nodes" Count "Live nodes, as this node sees them."
    gauge ready "fanfare_ready" Count "1 while `/ready` says 200."
}

/// The handles. Before [`install`] they count into nothing.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::register)
}

/// Connections closed by this server or its clients, by reason.
pub fn connection_closed(reason: &'static str) {
    counter!("fanfare_connections_closed_total", "reason" => reason).increment(1);
}

/// What `/metrics` says, in Prometheus' text format.
pub fn render() -> String {
    let handle = install();
    metrics().bytes_sent.gather();
    metrics().writes.gather();
    handle.render()
}

/// Starts counting, once per process.
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
        describe_counter!("fanfare_connections_closed_total", Unit::Count, "WebSockets ended, by reason.");
        gauge!("fanfare_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        metrics();
        handle
    })
}
