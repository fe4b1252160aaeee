//! Numbers and names as people read them.

use super::spread::Spread;

pub const ABSENT: &str = "–";

/// Three digits that mean something; whole numbers whole; thousands apart.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 999.5 {
        return thousands(&format!("{value:.0}"));
    }
    let before_point = value.abs().log10().floor();
    let decimals = (2.0 - before_point).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

/// A number of an axis: without zeros that say nothing.
pub fn round(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn thousands(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `median (lowest to highest)`, without a range that has no width.
pub fn range(spread: Spread) -> String {
    let [median, low, high] = [spread.median, spread.low, spread.high].map(number);
    if low == high { median } else { format!("{median} ({low} to {high})") }
}

/// `cpu_us_per_event` is `CPU µs per event`.
pub fn words(name: &str) -> String {
    let words: Vec<&str> = name.split('_').map(word).collect();
    words.join(" ")
}

fn word(word: &str) -> &str {
    match word {
        "cpu" => "CPU",
        "us" => "µs",
        "kb" => "KB",
        "mb" => "MB",
        "http" => "HTTP",
        "redis" => "Redis",
        "p99" => "99th percentile",
        other => other,
    }
}

/// With a capital, as a heading has it.
pub fn heading(name: &str) -> String {
    let words = words(name).replace('-', " ");
    let mut rest = words.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}
