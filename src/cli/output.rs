//! Output of commands. `println!` would panic when the reader has closed the pipe.

use std::io::{self, Write};

/// Prints one line to stdout and flushes it, so that pipes receive it at once.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Prints a text that a server has sent, on one line.
pub(super) fn remote_line(text: &str) -> io::Result<()> {
    line(&printable(text.trim_end()))
}

/// Prints one line to stderr. A failure is ignored: there is no other output for it.
pub(super) fn error(error: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "fanfare: {error}");
}

/// `text` on one line, with control characters escaped: events are untrusted, and a
/// terminal would interpret escape sequences.
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
    fn printable_escapes_control_characters() {
        assert_eq!(printable("täglich 🎺 {\"a\":1}"), "täglich 🎺 {\"a\":1}");
        assert_eq!(printable("a\nb\t\u{1b}[2J\u{9b}"), "a\\nb\\t\\u{1b}[2J\\u{9b}");
    }
}
