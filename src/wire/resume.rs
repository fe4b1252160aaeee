//! The member `resume` of a subscription, and the position in its confirmation (protocol.md
//! 2.13, docs/resume.md).

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::event::SocketId;
use crate::limits;

/// The member `resume` of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeRequest {
    /// `true`: the client requests its position, and no missed events.
    Position,
    /// The client requests the events that it missed since this position.
    From(Resume),
}

/// The position of a client and the bases that it holds. Sequence numbers are as on the wire:
/// their low 31 bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resume {
    pub epoch: u64,
    /// The sequence number of the last event that the client received.
    pub seq: u32,
    /// The client still holds the bases that it received after this sequence number.
    pub from: Option<u32>,
    /// The socket ids of the client's previous connections, for `socket_id` exclusion. At most
    /// [`limits::PREVIOUS_SOCKETS_MAX`].
    pub previous_socket_ids: Vec<SocketId>,
    /// Without one, nothing is recovered.
    pub token: Option<ResumeToken>,
}

/// Proof that a subscription of the client began at `since`: it may receive the events after that
/// number again. Opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResumeToken {
    /// A full sequence number. These grow over all epochs of a channel, so it identifies the
    /// history too.
    pub since: u64,
    pub mac: [u8; MAC_BYTES],
}

/// Half of an HMAC-SHA256.
const MAC_BYTES: usize = 16;
const TOKEN_VERSION: &str = "1";

/// The position at which a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub epoch: u64,
    pub seq: u64,
    /// All missed events follow.
    pub resumed: bool,
    /// For the next resume.
    pub token: ResumeToken,
}

/// Why `resume` is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`resume{member}` must be {expected}")]
pub struct ResumeError {
    /// The path of the invalid member, such as `.seq`, or empty for `resume` itself.
    member: &'static str,
    expected: &'static str,
}

const EPOCH_MAX: u64 = 1 << 53;
const SEQ_MAX: u64 = (1 << 31) - 1;

impl ResumeRequest {
    /// Parses the JSON text of `resume`. Unknown members are ignored. `None` for `false`.
    pub fn parse(text: &str) -> Result<Option<ResumeRequest>, ResumeError> {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow)]
            epoch: Option<&'a RawValue>,
            #[serde(borrow)]
            seq: Option<&'a RawValue>,
            #[serde(borrow)]
            from: Option<&'a RawValue>,
            #[serde(borrow)]
            socket_id: Option<&'a RawValue>,
            #[serde(borrow)]
            token: Option<&'a RawValue>,
        }
        let invalid = |member, expected| ResumeError { member, expected };
        match text {
            "true" => return Ok(Some(ResumeRequest::Position)),
            "false" => return Ok(None),
            _ => {}
        }
        let members: Members<'_> = Some(text)
            .filter(|text| text.starts_with('{'))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or(invalid("", "true, or an object of `epoch`, `seq`, `token`, `from` and `socket_id`"))?;
        let seq = |raw| integer(raw, SEQ_MAX).map(|seq| seq as u32);
        let expected = "an integer of 0 to 2147483647";
        Ok(Some(ResumeRequest::From(Resume {
            epoch: integer(members.epoch, EPOCH_MAX).ok_or(invalid(".epoch", "an integer of 0 to 2^53"))?,
            seq: seq(members.seq).ok_or(invalid(".seq", expected))?,
            from: match members.from {
                None => None,
                from => Some(seq(from).ok_or(invalid(".from", expected))?),
            },
            previous_socket_ids: previous_socket_ids(members.socket_id)
                .ok_or(invalid(".socket_id", "a socket id, or a list of at most 8"))?,
            token: match members.token {
                None => None,
                Some(raw) => ResumeToken::parse(&text_of(raw).ok_or(invalid(".token", "a string"))?),
            },
        })))
    }
}

impl ResumeToken {
    /// `None` for a text that is not a token of this version: it is treated as absent.
    fn parse(text: &str) -> Option<ResumeToken> {
        let (since, mac) = text.strip_prefix(TOKEN_VERSION)?.strip_prefix('.')?.split_once('.')?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        Some(ResumeToken { since: since.parse().ok()?, mac })
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_VERSION}.{}.{}", self.since, BASE64_URL_SAFE_NO_PAD.encode(self.mac))
    }
}

fn text_of(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn integer(raw: Option<&RawValue>, max: u64) -> Option<u64> {
    let number: u64 = serde_json::from_str(raw?.get()).ok()?;
    (number <= max).then_some(number)
}

fn previous_socket_ids(raw: Option<&RawValue>) -> Option<Vec<SocketId>> {
    let Some(raw) = raw else { return Some(Vec::new()) };
    let texts: Vec<String> = match raw.get().starts_with('[') {
        true => serde_json::from_str(raw.get()).ok()?,
        false => vec![serde_json::from_str(raw.get()).ok()?],
    };
    let is_valid =
        texts.len() <= limits::PREVIOUS_SOCKETS_MAX && texts.iter().all(|it| SocketId::is_shaped(it));
    // A well-formed id that the server never issues excludes no connection, so it is dropped.
    is_valid.then(|| texts.iter().filter_map(|text| SocketId::parse(text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_member_is_parsed_or_its_error_names_the_member() {
        let parse = |text: &str| ResumeRequest::parse(text).map_err(|error| error.to_string());
        assert_eq!(parse("true"), Ok(Some(ResumeRequest::Position)));
        assert_eq!(parse("false"), Ok(None));
        let (ids, more) = (["1.2", "3.4"].map(|id| SocketId::parse(id).expect("an id")), r#","x":[]"#);
        let token = ResumeToken { since: 4, mac: [255; MAC_BYTES] };
        let resume =
            Resume { epoch: 7, seq: 5, from: Some(3), previous_socket_ids: ids.to_vec(), token: Some(token) };
        assert_eq!(
            parse(&format!(
                r#"{{"epoch":7,"seq":5,"from":3,"socket_id":["1.2","3.4"],"token":"{token}"{more}}}"#
            )),
            Ok(Some(ResumeRequest::From(resume.clone())))
        );
        assert_eq!(
            parse(r#"{"epoch":7,"seq":5,"socket_id":"1.2"}"#),
            Ok(Some(ResumeRequest::From(Resume {
                from: None,
                previous_socket_ids: vec![ids[0]],
                token: None,
                ..resume
            })))
        );
        assert_eq!(token.to_string(), "1.4._____________________w");
        for text in ["", "2.4._____________________w", "1.4", "1..A", "1.4.AA", "1.-4._____________________w"]
        {
            assert_eq!(ResumeToken::parse(text), None, "{text}");
        }
        for (text, error) in [
            ("7", "`resume` must be true, or an object"),
            ("null", "`resume` must be true, or an object"),
            ("[7,5]", "`resume` must be true, or an object"),
            (r#"{"seq":5}"#, "`resume.epoch` must be an integer"),
            (r#"{"epoch":7}"#, "`resume.seq` must be an integer"),
            (r#"{"epoch":"7","seq":5}"#, "`resume.epoch` must be an integer"),
            (r#"{"epoch":9007199254740993,"seq":5}"#, "`resume.epoch` must be an integer"),
            (r#"{"epoch":7,"seq":-1}"#, "`resume.seq` must be an integer"),
            (r#"{"epoch":7,"seq":2147483648}"#, "`resume.seq` must be an integer"),
            (r#"{"epoch":7,"seq":1.5}"#, "`resume.seq` must be an integer"),
            (r#"{"epoch":7,"seq":5,"from":"3"}"#, "`resume.from` must be an integer"),
            (r#"{"epoch":7,"seq":5,"token":7}"#, "`resume.token` must be a string"),
            (r#"{"epoch":7,"seq":5,"socket_id":7}"#, "`resume.socket_id` must be a socket id"),
            (r#"{"epoch":7,"seq":5,"socket_id":"x"}"#, "`resume.socket_id` must be a socket id"),
            (&format!(r#"{{"epoch":7,"seq":5,"socket_id":{:?}}}"#, ["1.2"; 9]), "`resume.socket_id` must be"),
        ] {
            let found = parse(text).expect_err(text);
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }
}
