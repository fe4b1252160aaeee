//! Quotes of a stock exchange.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

use super::{cents, time_ms, words};

/// A quote, including the fields that do not change during a day.
#[derive(Serialize)]
pub struct Ticker {
    symbol: String,
    company: String,
    exchange: &'static str,
    currency: &'static str,
    source: &'static str,
    market_open: bool,
    open: f64,
    previous_close: f64,
    week52_high: f64,
    week52_low: f64,
    average_volume: u64,
    market_cap: u64,
    high: f64,
    low: f64,
    latest_price: f64,
    latest_size: u32,
    latest_update: u64,
    bid_price: f64,
    bid_size: u32,
    ask_price: f64,
    ask_size: u32,
    change: f64,
    change_percent: f64,
    volume: u64,
}

impl Ticker {
    pub fn random(_: usize, rng: &mut StdRng) -> Ticker {
        let symbol: String = (0..4).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect();
        let open = cents(rng.random_range(2.0..900.0));
        Ticker {
            company: words(3, rng) + " Corporation",
            symbol,
            exchange: "NASDAQ/NGS (GLOBAL SELECT MARKET)",
            currency: "USD",
            source: "real time price",
            market_open: true,
            open,
            previous_close: cents(open * 1.01),
            week52_high: cents(open * 1.4),
            week52_low: cents(open * 0.7),
            average_volume: rng.random_range(0..90_000_000),
            market_cap: rng.random_range(0..900_000_000_000),
            high: open,
            low: open,
            latest_price: open,
            latest_size: 0,
            latest_update: 0,
            bid_price: open,
            bid_size: 0,
            ask_price: open,
            ask_size: 0,
            change: 0.0,
            change_percent: 0.0,
            volume: rng.random_range(0..2_000_000),
        }
    }

    /// A trade: changes the price by a few cents, and the sizes.
    pub fn trade(&mut self, at: usize, rng: &mut StdRng) {
        let size = |rng: &mut StdRng| 100 * rng.random_range(1..9);
        self.latest_price = cents((self.latest_price + rng.random_range(-0.05..0.05)).max(1.0));
        self.latest_size = size(rng);
        self.latest_update = time_ms(at);
        (self.bid_price, self.ask_price) = (cents(self.latest_price - 0.01), cents(self.latest_price + 0.01));
        (self.bid_size, self.ask_size) = (size(rng), size(rng));
        (self.high, self.low) = (self.high.max(self.latest_price), self.low.min(self.latest_price));
        self.change = cents(self.latest_price - self.previous_close);
        self.change_percent = cents(self.change / self.previous_close * 100.0);
        self.volume += u64::from(self.latest_size);
    }
}
