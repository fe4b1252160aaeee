//! Aggregates repeats.

use super::{Faults, Record};

/// Median and range of a figure over its repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// `None` if there is no finite value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high, count) = (*values.first()?, *values.last()?, values.len());
        let median = f64::midpoint(values[(count - 1) / 2], values[count / 2]);
        Some(Spread { median, low, high })
    }

    /// The spread of one figure over these runs.
    pub fn of_figure<'a>(runs: impl IntoIterator<Item = &'a Record>, figure: &str) -> Option<Spread> {
        Spread::of(runs.into_iter().filter_map(|run| run.figures.get(figure).copied()))
    }
}

/// The distinct items, in order of first appearance.
pub fn distinct<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// The server names of these runs.
pub fn servers<'a>(runs: &[&'a Record]) -> Vec<&'a str> {
    distinct(runs.iter().map(|run| run.server.as_str()))
}

/// All figure names: the known ones in their order, the others by name.
pub fn figures<'a>(runs: &[&'a Record], known: &[&'a str]) -> Vec<&'a str> {
    let mut found: Vec<&str> = runs.iter().flat_map(|run| run.figures.keys()).map(String::as_str).collect();
    found.sort_unstable();
    found.dedup();
    found.sort_by_key(|name| known.iter().position(|other| other == name).unwrap_or(known.len()));
    found
}

/// The number of repeats.
pub fn repeats<'a>(runs: impl IntoIterator<Item = &'a Record>) -> usize {
    distinct(runs.into_iter().map(|run| run.repeat)).len()
}

/// The sum of the faults of these runs.
pub fn faults<'a>(runs: impl IntoIterator<Item = &'a Record>) -> Faults {
    runs.into_iter().fold(Faults::default(), |sum, run| Faults {
        lost: sum.lost + run.faults.lost,
        duplicated: sum.duplicated + run.faults.duplicated,
        reordered: sum.reordered + run.faults.reordered,
        undecodable: sum.undecodable + run.faults.undecodable,
        closed: sum.closed + run.faults.closed,
    })
}
