//! Signals: requests to stop, from a supervisor or a terminal, and signals without a meaning.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of SIGTERM, SIGINT and SIGQUIT. Once they exist, the signals no longer end the process.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    pub fn new() -> io::Result<StopSignals> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next signal of any kind.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Signals that end a process unless they are handled, and that mean nothing to the server.
/// Operators and other programs send some of them by mistake, for example SIGUSR1 to rotate a log.
/// Not SIGABRT, SIGBUS, SIGSYS and SIGTRAP, which request a core dump.
const IGNORED: &[(&str, Number)] = &[
    ("SIGUSR1", Number::USR1),
    ("SIGUSR2", Number::USR2),
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGPROF", Number::PROF),
    ("SIGIO", Number::IO),
    ("SIGXCPU", Number::XCPU),
    ("SIGXFSZ", Number::XFSZ),
    #[cfg(target_os = "linux")]
    ("SIGPWR", Number::POWER),
    #[cfg(target_os = "linux")]
    ("SIGSTKFLT", Number::STKFLT),
];

/// From now on, these signals have no effect except one line in the log each.
pub fn ignore_signals() -> io::Result<()> {
    for (name, number) in IGNORED {
        let mut received = signal(SignalKind::from_raw(number.as_raw()))?;
        tokio::spawn(async move {
            // Once: a log that has reached its size limit raises SIGXFSZ for each line.
            if received.recv().await.is_some() {
                tracing::warn!(signal = name, "signal ignored");
            }
        });
    }
    Ok(())
}
