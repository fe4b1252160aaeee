//! Generated events of one channel, by kind. They are the same in every run.

mod device;
mod document;
mod game;
mod ticker;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use device::Device;
use document::Document;
use game::Match;
use ticker::Ticker;

/// Events of each kind.
pub const EVENTS: usize = 4_000;
const SEED: u64 = 4;

pub struct Corpus {
    pub name: &'static str,
    /// Path of the conflation key, if the kind has one.
    pub key: Option<&'static str>,
    /// `data` of each event, JSON.
    pub events: Vec<String>,
}

pub fn corpora() -> [Corpus; 5] {
    [
        corpus("ticker, 100 symbols", Some("symbol"), |rng| {
            Subjects::of(100, Ticker::random, Ticker::trade, rng)
        }),
        corpus("document edits, 12 documents", Some("document"), |rng| {
            Subjects::of(12, Document::random, Document::edit, rng)
        }),
        corpus("game state, 8 matches", Some("match"), |rng| {
            Subjects::of(8, Match::random, Match::play, rng)
        }),
        corpus("IoT readings, 60 devices", Some("device"), |rng| {
            Subjects::of(60, Device::random, Device::measure, rng)
        }),
        corpus("random", None, |rng| {
            Subjects::of(1, |_, _| Noise { payload: String::new() }, Noise::change, rng)
        }),
    ]
}

fn corpus<T: Serialize>(
    name: &'static str,
    key: Option<&'static str>,
    subjects: impl FnOnce(&mut StdRng) -> Subjects<T>,
) -> Corpus {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut subjects = subjects(&mut rng);
    Corpus { name, key, events: (0..EVENTS).map(|at| subjects.next(at, &mut rng)).collect() }
}

/// The subjects of the events of a channel, with their current state.
struct Subjects<T> {
    subjects: Vec<T>,
    change: fn(&mut T, usize, &mut StdRng),
}

impl<T: Serialize> Subjects<T> {
    fn of(
        count: usize,
        random: fn(usize, &mut StdRng) -> T,
        change: fn(&mut T, usize, &mut StdRng),
        rng: &mut StdRng,
    ) -> Subjects<T> {
        Subjects { subjects: (0..count).map(|at| random(at, rng)).collect(), change }
    }

    /// Changes a random subject. Returns its new state as JSON.
    fn next(&mut self, at: usize, rng: &mut StdRng) -> String {
        let chosen = rng.random_range(0..self.subjects.len());
        (self.change)(&mut self.subjects[chosen], at, rng);
        serde_json::to_string(&self.subjects[chosen]).expect("the kinds below are JSON")
    }
}

/// Unix time of the event with this number, in ms.
pub fn time_ms(at: usize) -> u64 {
    1_767_225_600_000 + 50 * at as u64
}

/// A payload without repetition.
#[derive(Serialize)]
struct Noise {
    payload: String,
}

impl Noise {
    fn change(&mut self, _: usize, rng: &mut StdRng) {
        const LETTERS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
        let letters = rng.random_range(500..1_500);
        self.payload = (0..letters).map(|_| char::from(LETTERS[rng.random_range(0..64)])).collect();
    }
}

/// Rounds to two decimals.
pub fn cents(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

const WORDS: [&str; 24] = [
    "the", "of", "a", "and", "offer", "launch", "customer", "review", "before", "figures", "update", "with",
    "we", "should", "quarter", "pages", "new", "please", "budget", "to", "in", "meeting", "draft", "agreed",
];

pub fn words(count: usize, rng: &mut StdRng) -> String {
    let words: Vec<&str> = (0..count).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    words.join(" ")
}
