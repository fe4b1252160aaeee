//! Kinds of events: pairs of consecutive events, as frames on the wire.

pub(crate) type Pair = (Vec<u8>, Vec<u8>);

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) pairs: Vec<Pair>,
}

/// Pairs of each kind. Enough of them defeat branch prediction.
const PAIRS: usize = 64;

pub(crate) fn kinds() -> [Kind; 5] {
    let mut numbers = Numbers(1);
    let (mut small, mut large) = (Document::of(7, &mut numbers), Document::of(75, &mut numbers));
    let mut players: Vec<Player> = (0..24).map(|_| Player::random(&mut numbers)).collect();
    [
        kind("ticker", |number| ticker(number, &mut Numbers(number as u64 + 1))),
        kind("document, one edit", |number| small.edited(1, number, &mut Numbers(number as u64 + 1))),
        kind("document, four edits", |number| large.edited(4, number, &mut Numbers(number as u64 + 1))),
        kind("game, 24 players", |number| game(&mut players, &mut Numbers(number as u64 + 1))),
        kind("noise", |number| Numbers(number as u64 + 1).letters(950)),
    ]
}

fn kind(name: &'static str, mut data: impl FnMut(usize) -> String) -> Kind {
    let frames: Vec<Vec<u8>> = (0..=PAIRS).map(|number| frame(&data(number))).collect();
    Kind { name, pairs: frames.windows(2).map(|two| (two[0].clone(), two[1].clone())).collect() }
}

/// The frame of an event. Its data is a string of JSON.
fn frame(data: &str) -> Vec<u8> {
    let data = data.replace('"', "\\\"");
    format!("{{\"event\":\"update\",\"channel\":\"public-room-17\",\"data\":\"{data}\"}}").into_bytes()
}

fn ticker(number: usize, numbers: &mut Numbers) -> String {
    let (bid, ask) = (numbers.below(400), numbers.below(400));
    let (volume, time) = (81_234 + 7 * number, 1_763_779_000_000 + 250 * number);
    format!(
        "{{\"symbol\":\"BTC-USD\",\"exchange\":\"public-1\",\"currency\":\"USD\",\"bid\":64231.{bid:03},\"ask\":64232.{ask:03},\"volume\":{volume},\"time\":{time}}}"
    )
}

/// A collaboratively edited list of tasks.
struct Document(Vec<(u64, String)>);

impl Document {
    fn of(tasks: usize, numbers: &mut Numbers) -> Document {
        Document((0..tasks).map(|_| (numbers.below(1 << 30), numbers.words(9))).collect())
    }

    /// Rewords `tasks` tasks and, in every eighth version, moves one. Returns the new text.
    fn edited(&mut self, tasks: usize, version: usize, numbers: &mut Numbers) -> String {
        for _ in 0..tasks {
            let at = numbers.below(self.0.len() as u64) as usize;
            self.0[at].1 = format!("{} {}", numbers.words(8), version);
        }
        if version % 8 == 7 {
            let moved = self.0.remove(0);
            self.0.push(moved);
        }
        let tasks = self.0.iter().map(|(id, title)| {
            format!(
                "{{\"id\":\"task-{id:x}\",\"title\":\"{title}\",\"state\":\"open\",\"labels\":[\"a\",\"b\"]}}"
            )
        });
        format!("{{\"version\":{version},\"tasks\":[{}]}}", tasks.collect::<Vec<_>>().join(","))
    }
}

struct Player {
    id: u64,
    x: u64,
    y: u64,
    health: u64,
}

impl Player {
    fn random(numbers: &mut Numbers) -> Player {
        let [id, x, y] = [1 << 32, 4000, 4000].map(|bound| numbers.below(bound));
        Player { id, x, y, health: 100 }
    }
}

/// Moves a third of the players. Returns the new state.
fn game(players: &mut [Player], numbers: &mut Numbers) -> String {
    for player in players.iter_mut() {
        if numbers.below(3) == 0 {
            (player.x, player.y) = (player.x + numbers.below(20), player.y + numbers.below(20));
            player.health -= numbers.below(2).min(player.health);
        }
    }
    let states = players.iter().map(|Player { id, x, y, health }| {
        format!("{{\"id\":\"{id:08x}\",\"x\":{x},\"y\":{y},\"health\":{health},\"weapon\":\"bow\"}}")
    });
    format!("{{\"players\":[{}]}}", states.collect::<Vec<_>>().join(","))
}

/// Pseudorandom numbers, the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 12] = [
            "review", "the", "offer", "before", "launch", "and", "update", "customer", "pages", "with",
            "new", "figures",
        ];
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.below(12) as usize]).collect();
        words.join(" ")
    }

    fn letters(&mut self, count: usize) -> String {
        const LETTERS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
        (0..count).map(|_| char::from(LETTERS[self.below(64) as usize])).collect()
    }
}
