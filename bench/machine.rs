//! The machine: its cores for servers and for the load generator, and its description.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::time::{ClockId, clock_gettime};

use crate::Outcome;

/// Core lists in the format of `taskset -c`. There are none on a machine with fewer than four
/// cores, where pinning leaves too few cores to either side.
#[derive(Debug, Clone)]
pub struct Cores {
    allowed: Vec<u32>,
    has_taskset: bool,
}

const SERVER_CORES: usize = 2;

impl Cores {
    pub fn find() -> Outcome<Cores> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = field(&status, "Cpus_allowed_list").ok_or("/proc/self/status names no cores")?;
        let has_taskset = Command::new("taskset").arg("--version").output().is_ok();
        Ok(Cores { allowed: cores(list)?, has_taskset })
    }

    /// The cores of the servers. Also available in the pinned process, which may no longer run
    /// on these cores itself.
    pub fn server(&self) -> Option<String> {
        let all = all_cores().ok()?;
        self.can_pin(&all).then(|| join(&all[..SERVER_CORES]))
    }

    /// The cores of the load generator and of Redis.
    pub fn generator(&self) -> Option<String> {
        let all = all_cores().ok()?;
        self.can_pin(&all).then(|| join(&all[SERVER_CORES..]))
    }

    fn can_pin(&self, all: &[u32]) -> bool {
        let unpinned = self.allowed == all || self.allowed == all[SERVER_CORES.min(all.len())..];
        self.has_taskset && all.len() >= 4 && unpinned
    }
}

fn all_cores() -> Outcome<Vec<u32>> {
    cores(fs::read_to_string("/sys/devices/system/cpu/online")?.trim())
}

/// Parses a core list of the kernel: `0-2,7` is 0, 1, 2 and 7.
fn cores(list: &str) -> Outcome<Vec<u32>> {
    let mut cores = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.trim().parse::<u32>()?..=last.trim().parse()?);
    }
    Ok(cores)
}

fn join(cores: &[u32]) -> String {
    cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The number of cores in `list`. `None` means all cores of the machine.
pub fn count(list: Option<&str>) -> f64 {
    match list {
        Some(list) => list.split(',').count() as f64,
        None => all_cores().map_or(1.0, |cores| cores.len() as f64),
    }
}

/// Replaces this process with the same program, pinned to `cores`. Returns only on failure.
pub fn run_again_on(cores: String) -> std::io::Error {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cores).arg(program).args(std::env::args_os().skip(1)).arg("--pinned");
    command.exec()
}

/// File descriptors for everything but the sockets of subscribers.
const OTHER_DESCRIPTORS: u32 = 100;

/// The limit of sockets, from the open file limit: the generator and the server hold one
/// descriptor each per connection.
pub fn sockets_max() -> Outcome<u32> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let limit: Option<u32> = line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok());
    Ok(limit.unwrap_or(u32::MAX).saturating_sub(OTHER_DESCRIPTORS))
}

/// One line about processor, kernel, load and pinning, for the head of the page.
pub fn describe(cores: &Cores) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let pinning = match (cores.server(), cores.generator()) {
        (Some(server), Some(generator)) => format!("servers on cores {server}, the rest on {generator}"),
        _ => "NOT PINNED (needs four cores and taskset): servers and clients share all cores, \
              do not compare with a pinned run"
            .to_owned(),
    };
    format!(
        "{} × {}, Linux {}, load {} before; {pinning}",
        all_cores().map_or(0, |cores| cores.len()),
        model.map_or("unknown processor", |(_, model)| model),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// The value of a line `name:\tvalue` in a file of `/proc`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// Busy time of these cores in seconds, or of all cores for `None`. Includes kernel work, such
/// as softirqs, that is not charged to any process.
pub fn busy_seconds(list: Option<&str>) -> Outcome<f64> {
    let cores = list.map_or_else(all_cores, cores)?;
    let stat = fs::read_to_string("/proc/stat")?;
    let mut ticks = 0.0;
    for core in cores {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
        let line = line.ok_or("/proc/stat lacks a core")?;
        let times: Vec<f64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>()?;
        // Everything except `idle` and `iowait`.
        ticks += times.iter().sum::<f64>() - times[3] - times[4];
    }
    Ok(ticks / TICKS_PER_SEC)
}

/// `USER_HZ`, the unit of times in `/proc`. It is 100 on every Linux architecture.
pub const TICKS_PER_SEC: f64 = 100.0;

/// Nanoseconds of the monotonic clock, which all processes of the machine share.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
