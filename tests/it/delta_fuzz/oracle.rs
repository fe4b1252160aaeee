//! Whether what a client has seen is what was published for it: each event once,
//! in order, from a start that was told to an end that was told.

use std::collections::BTreeSet;

use super::payloads::passes;
use super::world::{Outcome, Print, Published};

/// A part of a subscription in which nothing may be missing.
#[derive(Debug)]
pub struct Span {
    /// The first event published after it began is at one of these places.
    pub starts: std::ops::RangeInclusive<usize>,
    pub filter: usize,
    /// Events that except one of these sockets are not for it.
    pub sockets: Vec<String>,
    pub seen: Vec<Print>,
    /// How each came, for people.
    pub came: Vec<(u32, &'static str)>,
}

impl Span {
    pub fn wants(&self, event: &Published) -> bool {
        event.outcome != Outcome::Refused
            && passes(self.filter, event.tags)
            && !event.except.as_ref().is_some_and(|except| self.sockets.contains(except))
    }

    /// Follows all ways in which the span can have come about: of two equal events
    /// of which one may not have been published, either may be meant. Returns the
    /// earliest place where it can have ended.
    pub fn check(&self, log: &[Published], floor: usize, to_the_end: bool) -> Result<usize, Mistake> {
        let (first, last) = (*self.starts.start().max(&floor), *self.starts.end().max(&floor));
        let mut places: BTreeSet<usize> = (first..=last).collect();
        for (at, print) in self.seen.iter().enumerate() {
            let next = places.iter().flat_map(|place| self.after(log, *place, print)).collect();
            let earlier = std::mem::replace(&mut places, next);
            if places.is_empty() {
                return Err(self.explain(log, at, &earlier));
            }
        }
        let is_over = |place: &usize| {
            log[*place..].iter().find(|it| it.outcome == Outcome::Accepted && self.wants(it)).is_none()
        };
        if to_the_end && !places.iter().any(is_over) {
            let why = format!("after {} events at {places:?} nothing more came", self.seen.len());
            return Err(Mistake { lost: true, why });
        }
        Ok(*places.first().expect("a way was found"))
    }

    /// Where the channel can stand after an event like `print`.
    fn after(&self, log: &[Published], place: usize, print: &Print) -> Vec<usize> {
        let mut found = Vec::new();
        for (at, event) in log.iter().enumerate().skip(place).filter(|(_, event)| self.wants(event)) {
            if event.print == *print {
                found.push(at + 1);
            }
            if event.outcome == Outcome::Accepted {
                break;
            }
        }
        found
    }

    fn explain(&self, log: &[Published], at: usize, places: &BTreeSet<usize>) -> Mistake {
        let event = &self.seen[at];
        let known: Vec<usize> = (0..log.len()).filter(|it| log[*it].print == *event).collect();
        let place = *places.first().expect("there was a place");
        let expected = log.iter().enumerate().skip(place).find(|(_, it)| self.wants(it));
        let came = &self.came[at.saturating_sub(3)..(at + 3).min(self.came.len())];
        let lost = known.iter().any(|known| *known >= place && self.wants(&log[*known]));
        let seen = known.first().map(|it| &log[*it]);
        let why = format!(
            "event {at} of {} of {:?} is published at {known:?} as {seen:?}, expected at {place} of {}: {expected:?}; came {came:?}",
            self.seen.len(),
            self.starts,
            log.len(),
        );
        Mistake { lost, why }
    }
}

#[derive(Debug)]
pub struct Mistake {
    /// It is not there, though nothing that is there is wrong.
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
            label: char.into(),
            tags: Tags::default(),
            except: None,
            outcome: if char.is_uppercase() { Outcome::Unknown } else { Outcome::Accepted },
        };
        text.chars().map(event).collect()
    }

    fn check(starts: std::ops::RangeInclusive<usize>, log_text: &str, seen: &str) -> Result<usize, bool> {
        let seen: Vec<Print> = seen.chars().map(|char| print("e", &char.to_string())).collect();
        let came = vec![(0, "full"); seen.len()];
        let span = Span { starts, filter: 0, sockets: vec![], seen, came };
        span.check(&log(log_text), 0, true).map_err(|mistake| mistake.lost)
    }

    #[test]
    fn the_oracle_sees_what_is_missing_and_what_is_wrong() {
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
    fn what_may_not_have_been_published_may_be_missing() {
        assert_eq!(check(0..=0, "aBc", "ac"), Ok(3));
        assert_eq!(check(0..=0, "aBc", "abc"), Ok(3));
        assert_eq!(check(0..=0, "aBbc", "abc"), Ok(4));
        assert_eq!(check(0..=0, "aBbc", "abbc"), Ok(4));
        assert_eq!(check(0..=0, "aBbc", "abbbc"), Err(false));
        assert_eq!(check(0..=0, "aB", "a"), Ok(1));
    }
}
