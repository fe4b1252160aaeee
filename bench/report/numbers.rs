//! Formats numbers and figure names for readers.

use super::spread::Spread;

/// The text of a missing value.
pub const ABSENT: &str = "–";

/// Formats with three significant digits, integers in full, and commas between thousands.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 999.5 {
        return thousands(&format!("{value:.0}"));
    }
    let before_point = value.abs().log10().floor();
    let decimals = (2.0 - before_point).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

/// Formats a number of an axis, without trailing zeros after the point.
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

/// `median (lowest to highest)`, or the median alone if all values are equal.
pub fn range(spread: Spread) -> String {
    let [median, low, high] = [spread.median, spread.low, spread.high].map(number);
    if low == high { median } else { format!("{median} ({low} to {high})") }
}

/// The words of a figure name: `CPU µs per event` for `cpu_us_per_event`.
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

/// The words of a name, with a capital first letter.
pub fn heading(name: &str) -> String {
    let words = words(name).replace('-', " ");
    let mut rest = words.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}
