//! Compares the events that a client received with those published for it: each
//! event once, in order, from a reported start to a reported end.

use std::collections::BTreeSet;

use super::payloads::passes;
use super::world::{Outcome, Print, Published};

/// A part of a subscription without a gap.
#[derive(Debug)]
pub struct Span {
    /// The log index of the first event published after the span began is in this
    /// range.
    pub starts: std::ops::RangeInclusive<usize>,
    pub filter: usize,
    /// The span does not receive events that exclude one of these sockets.
    pub sockets: Vec<String>,
    pub seen: Vec<Print>,
    /// The number and encoding of each event, for failure messages.
    pub encoding: Vec<(u32, &'static str)>,
}

impl Span {
    pub fn includes(&self, event: &Published) -> bool {
        event.outcome != Outcome::Refused
            && passes(self.filter, event.tags)
            && !event.except.as_ref().is_some_and(|except| self.sockets.contains(except))
    }

    /// Follows all ways in which the span can have come about: of two equal events,
    /// one of them with an unknown outcome, either may be the received one. Returns
    /// the lowest log index at which the span can have ended.
    pub fn check(&self, log: &[Published], floor: usize, is_complete: bool) -> Result<usize, Mistake> {
        let (first, last) = (*self.starts.start().max(&floor), *self.starts.end().max(&floor));
        let mut indexes: BTreeSet<usize> = (first..=last).collect();
        for (at, print) in self.seen.iter().enumerate() {
            let next = indexes.iter().flat_map(|index| self.after(log, *index, print)).collect();
            let earlier = std::mem::replace(&mut indexes, next);
            if indexes.is_empty() {
                return Err(self.explain(log, at, &earlier));
            }
        }
        let is_over = |index: &usize| {
            log[*index..].iter().find(|it| it.outcome == Outcome::Accepted && self.includes(it)).is_none()
        };
        if is_complete && !indexes.iter().any(is_over) {
            let why = format!("after {} events at {indexes:?} no further event arrived", self.seen.len());
            return Err(Mistake { lost: true, why });
        }
        Ok(*indexes.first().expect("at least one index remains"))
    }

    /// The log indexes that can follow an event like `print`.
    fn after(&self, log: &[Published], index: usize, print: &Print) -> Vec<usize> {
        let mut found = Vec::new();
        for (at, event) in log.iter().enumerate().skip(index).filter(|(_, event)| self.includes(event)) {
            if event.print == *print {
                found.push(at + 1);
            }
            if event.outcome == Outcome::Accepted {
                break;
            }
        }
        found
    }

    fn explain(&self, log: &[Published], at: usize, indexes: &BTreeSet<usize>) -> Mistake {
        let event = &self.seen[at];
        let known: Vec<usize> = (0..log.len()).filter(|it| log[*it].print == *event).collect();
        let index = *indexes.first().expect("the earlier indexes are not empty");
        let expected = log.iter().enumerate().skip(index).find(|(_, it)| self.includes(it));
        let encoding = &self.encoding[at.saturating_sub(3)..(at + 3).min(self.encoding.len())];
        let lost = known.iter().any(|known| *known >= index && self.includes(&log[*known]));
        let seen = known.first().map(|it| &log[*it]);
        let why = format!(
            "event {at} of {} of {:?} is published at {known:?} as {seen:?}, expected at {index} of {}: {expected:?}; encodings {encoding:?}; sockets {:?}",
            self.seen.len(),
            self.starts,
            log.len(),
            self.sockets,
        );
        Mistake { lost, why }
    }
}

#[derive(Debug)]
pub struct Mistake {
    /// An event is missing, and none is wrong.
    pub lost: bool,
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::super::payloads::Tags;
    use super::super::world::print;
    use super::*;

    fn log(text: &str) -> Vec<Published> {
        let event = |char: char| Published {
            print: print("e", &char.to_lowercase().to_string()),
            tags: Tags::default(),
            except: None,
            outcome: if char.is_uppercase() { Outcome::Unknown } else { Outcome::Accepted },
        };
        text.chars().map(event).collect()
    }

    fn check(starts: std::ops::RangeInclusive<usize>, log_text: &str, seen: &str) -> Result<usize, bool> {
        let seen: Vec<Print> = seen.chars().map(|char| print("e", &char.to_string())).collect();
        let encoding = vec![(0, "full"); seen.len()];
        let span = Span { starts, filter: 0, sockets: vec![], seen, encoding };
        span.check(&log(log_text), 0, true).map_err(|mistake| mistake.lost)
    }

    #[test]
    fn oracle_reports_missing_and_wrong_events() {
        assert_eq!(check(0..=0, "abc", "abc"), Ok(3));
        assert_eq!(check(0..=2, "abc", "bc"), Ok(3));
        assert_eq!(check(0..=0, "abc", "bc"), Err(true));
        assert_eq!(check(0..=0, "abc", "ac"), Err(true));
        assert_eq!(check(0..=0, "abc", "ab"), Err(true));
        assert_eq!(check(0..=0, "abc", "aabc"), Err(false));
        assert_eq!(check(0..=0, "abc", "abxc"), Err(false));
        assert_eq!(check(0..=0, "abc", "acb"), Err(true));
    }

    #[test]
    fn oracle_accepts_absence_of_events_with_unknown_outcome() {
        assert_eq!(check(0..=0, "aBc", "ac"), Ok(3));
        assert_eq!(check(0..=0, "aBc", "abc"), Ok(3));
        assert_eq!(check(0..=0, "aBbc", "abc"), Ok(4));
        assert_eq!(check(0..=0, "aBbc", "abbc"), Ok(4));
        assert_eq!(check(0..=0, "aBbc", "abbbc"), Err(false));
        assert_eq!(check(0..=0, "aB", "a"), Ok(1));
    }
}
