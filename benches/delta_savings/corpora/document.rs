//! Collaboratively edited texts.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

use super::words;

/// A document. Its event after each edit contains the whole text.
#[derive(Serialize)]
pub struct Document {
    document: String,
    version: u64,
    author: &'static str,
    title: String,
    text: String,
}

const DOCUMENT_WORDS: usize = 350;

impl Document {
    pub fn random(at: usize, rng: &mut StdRng) -> Document {
        Document {
            document: format!("doc-{:08x}", rng.random::<u32>()),
            version: 0,
            author: AUTHORS[at % AUTHORS.len()],
            title: words(5, rng),
            text: words(DOCUMENT_WORDS, rng),
        }
    }

    /// Adds, removes or replaces up to three words at a random offset.
    pub fn edit(&mut self, _: usize, rng: &mut StdRng) {
        let mut text: Vec<&str> = self.text.split(' ').collect();
        let start = rng.random_range(0..text.len() - 4);
        let end = start + rng.random_range(0..4);
        let new = words(rng.random_range(0..4), rng);
        text.splice(start..end, new.split(' ').filter(|word| !word.is_empty()));
        self.text = text.join(" ");
        self.version += 1;
        self.author = AUTHORS[rng.random_range(0..AUTHORS.len())];
    }
}

const AUTHORS: [&str; 4] = ["ana", "benedikt", "chidi", "dolores"];
