//! What a command says. Not `println!`, which panics when nobody reads.

use std::io::{self, Write};

/// One line on stdout, at once: whoever watches or pipes wants it now.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// One line on stderr. If nobody reads there, nobody can be told either.
pub(super) fn error(error: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "fanfare: {error}");
}

/// `text` on one line, and without what a terminal would obey: events come
/// from strangers.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() { printable.extend(char.escape_default()) } else { printable.push(char) }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("täglich 🎺 {\"a\":1}"), "täglich 🎺 {\"a\":1}");
        assert_eq!(printable("a\nb\t\u{1b}[2J\u{9b}"), "a\\nb\\t\\u{1b}[2J\\u{9b}");
    }
}
