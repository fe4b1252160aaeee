//! Text frames from clients: any text parses to a command or to an error, and so do the signed
//! `channel_data` and `user_data` in it.

#![no_main]

use fanfare::wire::command::Command;
use fanfare::wire::identity::{UserData, parse_channel_data};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Command::parse(text) {
        Ok(Command::Subscribe(subscribe)) => {
            if let Some(Ok(member)) = subscribe.channel_data.as_deref().map(parse_channel_data) {
                assert!(!member.user_id.is_empty());
            }
        }
        Ok(Command::Signin(signin)) => {
            if let Ok(user) = UserData::parse(&signin.user_data) {
                assert!(!user.id.is_empty());
            }
        }
        Ok(command) => drop(format!("{command:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
