//! What a browser may send over its WebSocket: any text is a command or an
//! error.

#![no_main]

use fanfare::wire::command::Command;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Command::parse(text) {
        Ok(command) => drop(format!("{command:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
