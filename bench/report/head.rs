//! Head of the page: command, machine, date and versions, and how to read the tables.

use super::{Head, Record, markdown::escape, spread};

/// Warning at the head of a page from a run without pinning.
const UNPINNED: &str = "**Not comparable: servers and load generator shared the same cores. Do not compare these \
    figures with another run or with each other.**\n\n";

const READING: &str = "A cell is the median of the repeats (lowest to highest). CPU time is that of all processes of a \
    server, from `/proc`. The servers took turns within each repeat. Compare within one run only: a shared machine \
    changes from run to run.\n";

pub fn text(head: &Head, records: &[Record]) -> String {
    let warning = if head.is_pinned { "" } else { UNPINNED };
    let command = head.command.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let mut facts = format!("- Date: {}\n- Machine: {}\n", date(head.started), escape(&head.machine));
    facts.push_str(&format!("- Repeats: {}\n", spread::repeats(records)));
    for (program, version) in &head.versions {
        facts.push_str(&format!("- {}: {}\n", escape(program), escape(version)));
    }
    format!("# Measured side by side\n\n{warning}{command}\n{facts}\n{READING}")
}

/// Formats Unix time as `2026-02-03 04:05 UTC`.
fn date(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let february = days_of_year(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02} UTC", days + 1, minutes / 60, minutes % 60)
}

fn days_of_year(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(is_leap)
}
