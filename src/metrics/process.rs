//! Metrics of the process, with the names that Prometheus' client libraries use.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

use super::Metric;
use crate::files;

/// For the reference page.
pub const CATALOGUE: &[Metric] = &[
    metric("process_cpu_seconds_total", "counter", "Seconds", "CPU time of the process, user and system."),
    metric("process_resident_memory_bytes", "gauge", "Bytes", "Resident memory of the process."),
    metric(
        "process_open_fds",
        "gauge",
        "Count",
        "Open file descriptors: one for each connection, and few others.",
    ),
    metric("process_max_fds", "gauge", "Count", "Limit of open file descriptors."),
    metric("process_start_time_seconds", "gauge", "Seconds", "Start of the process, in seconds since 1970."),
];

const fn metric(name: &'static str, kind: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

static STARTED: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());

/// Records the time of the start.
pub(super) fn start() {
    LazyLock::force(&STARTED);
}

/// Appends all metrics in Prometheus' text format.
pub(super) fn render(out: &mut String) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let values = [
        cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        resident_bytes().unwrap_or(0) as f64,
        files::open() as f64,
        files::limit() as f64,
        *STARTED,
    ];
    for (Metric { name, kind, help, .. }, value) in CATALOGUE.iter().zip(values) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

/// `None` on systems without `/proc`.
fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident * page_size() as u64)
}
