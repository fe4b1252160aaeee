//! A wall clock that is set forward or back, for one process: `clock.c`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

/// Compiled once; the tests' process removes nothing that others load.
static LIBRARY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = TempDir::new().expect("a directory");
    let library = dir.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler").success(), "{source} is compiled");
    (dir, library)
});

/// Environment of a process whose clock is `secs` ahead, or behind if negative.
pub fn offset(secs: i64) -> [(&'static str, String); 2] {
    [("LD_PRELOAD", LIBRARY.1.display().to_string()), ("CLOCK_OFFSET", secs.to_string())]
}
