//! States of multiplayer matches.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

use super::cents;

/// A match. Its events contain the state of all players.
#[derive(Serialize)]
pub struct Match {
    #[serde(rename = "match")]
    id: String,
    map: &'static str,
    tick: usize,
    players: Vec<Player>,
}

#[derive(Serialize)]
struct Player {
    id: String,
    team: &'static str,
    position: [f64; 2],
    heading: u16,
    health: u8,
    weapon: &'static str,
    ammunition: u8,
    score: u32,
}

const PLAYERS: usize = 12;
const WEAPONS: [&str; 4] = ["bow", "crossbow", "spear", "sling"];

impl Match {
    pub fn random(_: usize, rng: &mut StdRng) -> Match {
        let id = format!("{:08x}", rng.random::<u32>());
        Match {
            id,
            map: "harbour",
            tick: 0,
            players: (0..PLAYERS).map(|at| Player::random(at, rng)).collect(),
        }
    }

    /// Moves a third of the players, and changes ammunition, score or health of a few.
    pub fn play(&mut self, at: usize, rng: &mut StdRng) {
        self.tick = at;
        for player in &mut self.players {
            if rng.random_ratio(1, 3) {
                player.position = player.position.map(|axis| cents(axis + rng.random_range(-4.0..4.0)));
                player.heading = rng.random_range(0..360);
            }
            if rng.random_ratio(1, 12) {
                player.ammunition = player.ammunition.checked_sub(1).unwrap_or(30);
                player.score += 10;
            }
            if rng.random_ratio(1, 24) {
                player.health = player.health.checked_sub(rng.random_range(1..20)).unwrap_or(100);
            }
        }
    }
}

impl Player {
    pub fn random(at: usize, rng: &mut StdRng) -> Player {
        Player {
            id: format!("{:08x}", rng.random::<u32>()),
            team: ["red", "blue"][at % 2],
            position: [(); 2].map(|()| cents(rng.random_range(0.0..2_000.0))),
            heading: 0,
            health: 100,
            weapon: WEAPONS[at % WEAPONS.len()],
            ammunition: 30,
            score: 0,
        }
    }
}
