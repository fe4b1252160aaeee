//! Rate limit of log lines that any client can cause: one per subject and minute.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits;

const WINDOW: Duration = Duration::from_secs(60);

/// The subjects that were logged in the current minute, at most [`limits::LOG_SUBJECTS_MAX`].
/// Above this limit nothing is logged until the minute is over. The reported events have
/// counters of their own, so none is lost to the operator.
#[derive(Debug, Default)]
pub struct LogLimit {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    subjects: HashSet<Box<str>>,
}

impl LogLimit {
    /// True for the first line about `subject` in a minute.
    pub fn admits(&self, subject: &str) -> bool {
        self.admits_at(subject, Instant::now())
    }

    fn admits_at(&self, subject: &str, now: Instant) -> bool {
        let mut window = self.window.lock();
        if window.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            window.began = Some(now);
            window.subjects.clear();
        }
        window.subjects.len() < limits::LOG_SUBJECTS_MAX && window.subjects.insert(subject.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_is_admitted_once_per_minute() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        assert!(limit.admits_at("a", start));
        assert!(!limit.admits_at("a", start + WINDOW / 2));
        assert!(limit.admits_at("b", start + WINDOW / 2));
        assert!(limit.admits_at("a", start + WINDOW));
    }

    #[test]
    fn subjects_of_a_minute_are_bounded() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let admitted = (0..1_000).filter(|number| limit.admits_at(&number.to_string(), start)).count();
        assert_eq!(admitted, limits::LOG_SUBJECTS_MAX);
        assert!(limit.admits_at("0", start + WINDOW));
    }
}
