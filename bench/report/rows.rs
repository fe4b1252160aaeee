//! Rows and goals of the comparison table.

use super::Record;

/// Name of the program that only writes the same bytes to the same sockets.
pub const FLOOR: &str = "kernel floor";

/// Prefix of the server names to which the goals apply.
const OURS: &str = "fanfare";

/// A load of the comparison.
pub struct Case {
    pub name: &'static str,
    pub title: &'static str,
    pub rows: &'static [Row],
}

pub struct Row {
    pub figure: &'static str,
    pub title: &'static str,
    /// Upper bound of the median.
    pub goal: Option<f64>,
    /// Whether the value is divided by that of the floor in the same repeat.
    pub is_over_floor: bool,
}

pub const CASES: &[Case] = &[
    Case {
        name: "one-channel",
        title: "One channel, batches of ten 200 B events",
        rows: &[
            row("cpu_us_per_event", "CPU µs per delivered event, one channel, ten 200 B").at_most(0.7),
            row("cpu_us_per_event", "the same, × kernel floor").over_floor().at_most(1.3),
            row("answer_ms_median", "HTTP answer to a batch, ms, median").at_most(1.0),
            row("answer_ms_p99", "HTTP answer to a batch, ms, 99th percentile"),
            row("last_ms_median", "last subscriber has the batch, ms, median").at_most(50.0),
            row("last_ms_p99", "last subscriber has the batch, ms, 99th percentile"),
            row("redis_cpu_us_per_batch", "CPU µs of Redis per batch"),
            row("resident_mb_after", "resident MB after the runs, sockets still connected").at_most(150.0),
            row("idle_kb_per_connection", "resident KB per idle connection").at_most(6.0),
        ],
    },
    Case {
        name: "deltas",
        title: "Deltas on, 1 KB events",
        rows: &[
            row("cpu_us_per_event", "CPU µs per delivered event, deltas, 1 KB").at_most(1.0),
            row("bytes_per_event", "bytes per delivered event"),
            row("answer_ms_median", "HTTP answer to a batch, ms, median"),
            row("last_ms_median", "last subscriber has the batch, ms, median"),
            row("decoded_deltas", "deltas decoded on the sample"),
            row("resident_mb_after", "resident MB after the runs, sockets still connected").at_most(150.0),
        ],
    },
    Case {
        name: "many-channels",
        title: "2,000 channels × 5 subscribers, a batch over 10 channels",
        rows: &[
            row("cpu_us_per_event", "CPU µs per delivered event, 2,000 channels").at_most(8.0),
            row("cpu_us_per_event", "the same, × kernel floor").over_floor(),
            row("answer_ms_median", "HTTP answer to a batch, ms, median"),
            row("last_ms_median", "last subscriber has the batch, ms, median"),
        ],
    },
    Case {
        name: "connects",
        title: "Connecting",
        rows: &[
            row("connects_per_second", "connects per second"),
            row("cpu_us_per_connect", "CPU µs per connect").at_most(60.0),
            row("generator_share", "share of its cores that the load generator used"),
        ],
    },
    Case {
        name: "burst",
        title: "A burst, and a minute later",
        rows: &[
            row("idle_mb", "resident MB, idle"),
            row("burst_mb", "resident MB in the burst"),
            row("minute_after_mb", "resident MB a minute after"),
            row("minute_after_ratio", "a minute after, × idle").at_most(1.2),
        ],
    },
];

const fn row(figure: &'static str, title: &'static str) -> Row {
    Row { figure, title, goal: None, is_over_floor: false }
}

impl Row {
    const fn at_most(self, goal: f64) -> Row {
        Row { goal: Some(goal), ..self }
    }

    const fn over_floor(self) -> Row {
        Row { is_over_floor: true, ..self }
    }

    /// The value of one run. `runs` are all runs of the case, including those of the floor.
    pub fn value(&self, run: &Record, runs: &[&Record]) -> Option<f64> {
        let value = *run.figures.get(self.figure)?;
        if !self.is_over_floor {
            return Some(value);
        }
        let floor = runs.iter().find(|other| other.server == FLOOR && other.repeat == run.repeat)?;
        floor.figures.get(self.figure).filter(|floor| **floor > 0.0).map(|floor| value / floor)
    }
}

pub fn is_ours(server: &str) -> bool {
    server.to_lowercase().starts_with(OURS)
}
