//! The file descriptors of the process: one for each connection, and few others.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Raises the soft limit of open files to the hard one, and returns the result. The soft limit
/// is mostly 1,024, for programs that use `select`.
pub fn raise_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, limit = limit(), "limit of open files not raised");
    }
    limit()
}

/// The limit of open files; [`u64::MAX`] without one.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Open files, 0 if the system does not tell.
pub fn open() -> u64 {
    let Ok(metadata) = std::fs::metadata("/proc/self/fd") else { return 0 };
    // Since Linux 6.2 the size is the number. Before, it is 0, and all are listed.
    match metadata.len() {
        0 => std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        open => open,
    }
}

/// Descriptors of `limit` that connections of clients do not use: for Redis, webhooks, metrics
/// and the connections that are served from the reserve.
pub fn reserved(limit: u64) -> u64 {
    (limit / 4).min(limits::RESERVED_FILES_MAX)
}
