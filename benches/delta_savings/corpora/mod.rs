//! Kinds of events, the same in every run: of each, what one channel is sent.

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
    /// Where it has conflation keys: their path.
    pub key: Option<&'static str>,
    /// `data` of each event, JSON.
    pub events: Vec<String>,
}

pub fn corpora() -> [Corpus; 5] {
    [
        corpus("ticker, 100 symbols", Some("symbol"), |rng| {
            Things::of(100, Ticker::random, Ticker::trade, rng)
        }),
        corpus("document edits, 12 documents", Some("document"), |rng| {
            Things::of(12, Document::random, Document::edit, rng)
        }),
        corpus("game state, 8 matches", Some("match"), |rng| Things::of(8, Match::random, Match::play, rng)),
        corpus("IoT readings, 60 devices", Some("device"), |rng| {
            Things::of(60, Device::random, Device::measure, rng)
        }),
        corpus("random", None, |rng| {
            Things::of(1, |_, _| Noise { payload: String::new() }, Noise::change, rng)
        }),
    ]
}

fn corpus<T: Serialize>(
    name: &'static str,
    key: Option<&'static str>,
    things: impl FnOnce(&mut StdRng) -> Things<T>,
) -> Corpus {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut things = things(&mut rng);
    Corpus { name, key, events: (0..EVENTS).map(|at| things.next(at, &mut rng)).collect() }
}

/// What the events of a channel are about, each with its present state.
struct Things<T> {
    things: Vec<T>,
    change: fn(&mut T, usize, &mut StdRng),
}

impl<T: Serialize> Things<T> {
    fn of(
        count: usize,
        random: fn(usize, &mut StdRng) -> T,
        change: fn(&mut T, usize, &mut StdRng),
        rng: &mut StdRng,
    ) -> Things<T> {
        Things { things: (0..count).map(|at| random(at, rng)).collect(), change }
    }

    /// One of them changes, and says what it is now.
    fn next(&mut self, at: usize, rng: &mut StdRng) -> String {
        let chosen = rng.random_range(0..self.things.len());
        (self.change)(&mut self.things[chosen], at, rng);
        serde_json::to_string(&self.things[chosen]).expect("the kinds below are JSON")
    }
}

/// The clock of the event with this number, in ms.
pub fn time_ms(at: usize) -> u64 {
    1_767_225_600_000 + 50 * at as u64
}

/// Nothing of it comes again.
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
