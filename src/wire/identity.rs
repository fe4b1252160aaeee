//! The identity of a client, signed by its app's backend: the JSON inside `channel_data` and
//! `user_data` (protocol.md 2.6, 2.9).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::json::{self, DecodeError};
use crate::limits;
use crate::presence::Member;

/// The validated `user_data` of a sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData {
    pub id: Arc<str>,
    /// `user_info` as JSON text; `null` if absent.
    pub info: Bytes,
    /// The ids of the watched users, without duplicates. Their number and form are not
    /// checked here.
    pub watchlist: Vec<String>,
}

/// Why a signed text does not identify a user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    #[error("`{text}` must be a JSON object: {error}")]
    NotObject { text: &'static str, error: String },
    #[error("`{text}` is nested deeper than {} levels", limits::JSON_DEPTH_MAX)]
    TooDeep { text: &'static str },
    #[error("`{field}` must be {expected}")]
    Type { field: &'static str, expected: &'static str },
    #[error("`{field}` has half of a surrogate pair, {escape}, which is not a character")]
    LoneSurrogate { field: &'static str, escape: String },
    #[error("`{field}` must not be empty")]
    Empty { field: &'static str },
    #[error("`{field}` has {chars} characters (limit: {chars_max})")]
    TooLong { field: &'static str, chars: usize, chars_max: usize },
}

/// Parses `channel_data` into the member of a presence channel. A number as `user_id` becomes
/// its JSON text, because Pusher's own sample has one (protocol.md 2.6).
pub fn parse_channel_data(text: &str) -> Result<Member, IdentityError> {
    #[derive(Deserialize)]
    struct ChannelData<'a> {
        #[serde(borrow)]
        user_id: Option<&'a RawValue>,
        #[serde(borrow)]
        user_info: Option<&'a RawValue>,
    }
    let data: ChannelData<'_> = object("channel_data", text)?;
    let user_id = string_or_number("user_id", "a string or a number", data.user_id)?;
    Ok(Member::new(checked_id("user_id", user_id)?, info(data.user_info)))
}

impl UserData {
    /// Parses `user_data`. `id` must be a string: a number is refused, as by Pusher.
    pub fn parse(text: &str) -> Result<UserData, IdentityError> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            user_info: Option<&'a RawValue>,
            #[serde(borrow)]
            watchlist: Option<&'a RawValue>,
        }
        let data: Raw<'_> = object("user_data", text)?;
        let id = decode("id", "a string", data.id)?;
        Ok(UserData {
            id: checked_id("id", id)?,
            info: info(data.user_info),
            watchlist: data.watchlist.map(watchlist).transpose()?.unwrap_or_default(),
        })
    }
}

fn object<'a, T: Deserialize<'a>>(name: &'static str, text: &'a str) -> Result<T, IdentityError> {
    if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
        return Err(IdentityError::TooDeep { text: name });
    }
    let not_object = |error: String| IdentityError::NotObject { text: name, error };
    // serde also accepts an array, and reads its elements as the members.
    if !text.trim_start().starts_with('{') {
        return Err(not_object("it does not begin with {".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| not_object(error.to_string()))
}

fn checked_id(field: &'static str, id: String) -> Result<Arc<str>, IdentityError> {
    let (chars, chars_max) = (id.chars().count(), limits::USER_ID_CHARS_MAX);
    match chars {
        0 => Err(IdentityError::Empty { field }),
        _ if chars > chars_max => Err(IdentityError::TooLong { field, chars, chars_max }),
        _ => Ok(id.into()),
    }
}

fn string_or_number(
    field: &'static str,
    expected: &'static str,
    raw: Option<&RawValue>,
) -> Result<String, IdentityError> {
    match raw.map(RawValue::get) {
        Some(number) if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => Ok(number.to_owned()),
        _ => decode(field, expected, raw),
    }
}

fn decode<'de, T: Deserialize<'de>>(
    field: &'static str,
    expected: &'static str,
    raw: Option<&'de RawValue>,
) -> Result<T, IdentityError> {
    let wrong_type = IdentityError::Type { field, expected };
    json::decode(raw.ok_or(wrong_type.clone())?).map_err(|error| match error {
        DecodeError::Type => wrong_type,
        DecodeError::LoneSurrogate(escape) => IdentityError::LoneSurrogate { field, escape },
    })
}

fn info(raw: Option<&RawValue>) -> Bytes {
    raw.map_or(Bytes::from_static(b"null"), |raw| Bytes::copy_from_slice(raw.get().as_bytes()))
}

fn watchlist(raw: &RawValue) -> Result<Vec<String>, IdentityError> {
    let (field, expected) = ("watchlist", "an array of user ids");
    let ids: Vec<&RawValue> = decode(field, expected, Some(raw))?;
    let ids = ids.into_iter().map(|id| string_or_number(field, expected, Some(id)));
    let mut ids = ids.collect::<Result<Vec<String>, _>>()?;
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn member(text: &str) -> Result<(String, String), String> {
        let member = parse_channel_data(text).map_err(|error| error.to_string())?;
        let info = String::from_utf8(member.info.to_vec()).expect("it was a str");
        Ok((member.user_id.to_string(), info))
    }

    #[test]
    fn channel_data_keeps_user_info_verbatim() {
        for (text, user_id, info) in [
            (r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#, "10", r#"{"name":"Mr. Channels"}"#),
            (r#"{"user_id":"a"}"#, "a", "null"),
            (r#"{"user_id":"a","user_info":null}"#, "a", "null"),
            (r#" { "user_info" : [ 1.0, 1e2 ] , "user_id" : "\u00e4\n" } "#, "ä\n", "[ 1.0, 1e2 ]"),
            (r#"{"user_id":-7.50,"user_info":"x"}"#, "-7.50", r#""x""#),
            (r#"{"user_id":123456789012345678901234567890}"#, "123456789012345678901234567890", "null"),
        ] {
            assert_eq!(member(text), Ok((user_id.to_owned(), info.to_owned())), "{text}");
        }
    }

    #[test]
    fn channel_data_error_names_the_field() {
        let long = json!({ "user_id": "ä".repeat(limits::USER_ID_CHARS_MAX + 1) }).to_string();
        for (text, error) in [
            ("", "`channel_data` must be a JSON object"),
            ("7", "`channel_data` must be a JSON object"),
            (r#"["a","b"]"#, "`channel_data` must be a JSON object"),
            (r#"{"user_id":"a""#, "`channel_data` must be a JSON object"),
            (r#"{"user_id":"a","user_id":"b"}"#, "`channel_data` must be a JSON object"),
            ("{}", "`user_id` must be a string or a number"),
            (r#"{"user_id":null}"#, "`user_id` must be a string or a number"),
            (r#"{"user_id":true}"#, "`user_id` must be a string or a number"),
            (r#"{"user_id":"a\ud83d"}"#, r"`user_id` has half of a surrogate pair, \ud83d, which"),
            (r#"{"user_id":""}"#, "`user_id` must not be empty"),
            (&long, "`user_id` has 129 characters (limit: 128)"),
            (&"[".repeat(20_000), "`channel_data` is nested deeper than 64 levels"),
        ] {
            let found = member(text).expect_err(text);
            assert!(found.starts_with(error), "{text}: {found}");
        }
        let longest = json!({ "user_id": "ä".repeat(limits::USER_ID_CHARS_MAX) }).to_string();
        assert!(member(&longest).is_ok());
    }

    #[test]
    fn user_data_is_parsed_or_its_error_names_the_field() {
        let parse = |text: &str| UserData::parse(text).map_err(|error| error.to_string());
        let user = parse(r#"{"id":"42","user_info":{"n":1.0},"watchlist":["1",2,"1"],"more":0}"#);
        let expected = UserData {
            id: "42".into(),
            info: Bytes::from_static(br#"{"n":1.0}"#),
            watchlist: vec!["1".into(), "2".into()],
        };
        assert_eq!(user, Ok(expected));
        for (text, error) in [
            ("[]", "`user_data` must be a JSON object"),
            ("{}", "`id` must be a string"),
            (r#"{"id":42}"#, "`id` must be a string"),
            (r#"{"id":""}"#, "`id` must not be empty"),
            (r#"{"id":"\ude00"}"#, r"`id` has half of a surrogate pair, \ude00, which is not a character"),
            (r#"{"id":"1","watchlist":["\ude00"]}"#, r"`watchlist` has half of a surrogate pair, \ude00"),
            (r#"{"id":"1","watchlist":"2"}"#, "`watchlist` must be an array of user ids"),
            (r#"{"id":"1","watchlist":[["2"]]}"#, "`watchlist` must be an array of user ids"),
        ] {
            let found = parse(text).expect_err(text);
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics_on_any_text(text in any::<String>(), json in "[\\[\\]{}\":,a-z_0-9.\\\\-]{0,40}") {
            for text in [text, json.clone(), format!(r#"{{"user_id":{json}}}"#), format!(r#"{{"id":{json}}}"#)] {
                let _ = (parse_channel_data(&text), UserData::parse(&text));
            }
        }

        #[test]
        fn numeric_user_id_becomes_its_json_text(number in any::<f64>().prop_filter("JSON has these only", |n| n.is_finite())) {
            let text = serde_json::to_string(&number).expect("a finite number is JSON");
            let (user_id, _) = member(&format!(r#"{{"user_id":{text}}}"#)).expect("a number is an id");
            prop_assert_eq!(user_id, text);
        }

        #[test]
        fn user_info_is_kept_byte_for_byte(user_id in "[a-z]{1,9}", info in any::<String>(), space in "[ \t\n]{0,3}") {
            let info = format!("{{{space}\"x\"{space}:{}}}", json!(info));
            let text = format!(r#"{{"user_id":"{user_id}","user_info":{info}}}"#);
            prop_assert_eq!(member(&text), Ok((user_id, info)));
        }
    }
}
