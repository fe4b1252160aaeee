//! `message_rate_limit`: a table with the rate limit of one connection's messages.

use std::fmt;
use std::time::Duration;

use super::fault::Wrong;
use super::raw::Raw;
use super::table::Table;
use crate::app::Rate;

pub(super) const EXPECTED: &str =
    "a table of `enabled`, `max_attempts`, `decay_seconds` and `terminate_on_limit`";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRate {
    pub rate: Rate,
    /// Whether a connection above the limit is closed.
    pub terminate: bool,
}

const NAMES: &[&str] = &["enabled", "max_attempts", "decay_seconds", "terminate_on_limit"];
const FLAG: &str = "true or false";

/// Parses the table; `None` is no limit. `enabled` is mandatory, so that a limit without
/// effect is noticed at start.
pub(super) fn read(raw: &Raw) -> Result<Option<MessageRate>, Wrong> {
    let parsed = raw.parsed();
    let members = match parsed.as_ref().unwrap_or(raw) {
        Raw::Table(members) if !members.is_empty() => members,
        raw if raw.is_empty() => return Ok(None),
        _ => return Err(Wrong::Expected(EXPECTED.to_owned())),
    };
    let mut mistakes = Vec::new();
    let mut table = Table::new(members, String::new(), NAMES, &[], &mut mistakes);
    let enabled = table.require("enabled", FLAG, Raw::flag, Raw::to_string);
    let attempts = table.read("max_attempts", "a whole number from 1", count);
    let seconds = table.read("decay_seconds", "a whole number from 1", count);
    let terminate = table.read("terminate_on_limit", FLAG, Raw::flag);
    if !mistakes.is_empty() {
        return Err(Wrong::Inside(mistakes));
    }
    let window = Duration::from_secs(seconds.unwrap_or(60));
    let rate = Rate { count: attempts.unwrap_or(60), window };
    let limit = MessageRate { rate, terminate: terminate.unwrap_or(false) };
    Ok(Some(limit).filter(|_| enabled == Some(true)))
}

fn count(raw: &Raw) -> Option<u64> {
    raw.digits()?.parse::<u32>().ok().filter(|it| *it > 0).map(u64::from)
}

impl fmt::Display for MessageRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MessageRate { rate, terminate } = self;
        write!(
            f,
            "{{ enabled = true, max_attempts = {}, decay_seconds = {}, terminate_on_limit = {terminate} }}",
            rate.count,
            rate.window.as_secs()
        )
    }
}
