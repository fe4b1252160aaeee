//! What a client says of what it has had, when it subscribes, and what it is
//! answered (docs/resume.md).

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::event::SocketId;
use crate::limits;

/// The member `resume` of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeRequest {
    /// Tell me where I stand.
    Position,
    /// Send me what I have missed.
    From(Resume),
}

/// What a client has had. Numbers are as clients see them: 31 bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resume {
    pub epoch: u64,
    /// Of the last event that it had.
    pub seq: u32,
    /// It holds as bases what it was sent after this number.
    pub from: Option<u32>,
    /// Its previous_socket_ids connections.
    pub previous_socket_ids: Vec<SocketId>,
}

/// Where a subscription stands as it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub epoch: u64,
    pub seq: u64,
    /// Everything missed follows.
    pub resumed: bool,
}

/// What is wrong with `resume`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`resume{member}` must be {expected}")]
pub struct ResumeError {
    /// `.seq`, or nothing.
    member: &'static str,
    expected: &'static str,
}

const EPOCH_MAX: u64 = 1 << 53;
const SEQ_MAX: u64 = (1 << 31) - 1;

impl ResumeRequest {
    /// Reads the member; members of it that mean nothing are ignored. None for
    /// `false`.
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
        }
        let wrong = |member, expected| ResumeError { member, expected };
        match text {
            "true" => return Ok(Some(ResumeRequest::Position)),
            "false" => return Ok(None),
            _ => {}
        }
        let members: Members<'_> = Some(text)
            .filter(|text| text.starts_with('{'))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or(wrong("", "true, or an object of `epoch`, `seq`, `from` and `socket_id`"))?;
        let seq = |raw| integer(raw, SEQ_MAX).map(|seq| seq as u32);
        let expected = "an integer of 0 to 2147483647";
        Ok(Some(ResumeRequest::From(Resume {
            epoch: integer(members.epoch, EPOCH_MAX).ok_or(wrong(".epoch", "an integer of 0 to 2^53"))?,
            seq: seq(members.seq).ok_or(wrong(".seq", expected))?,
            from: match members.from {
                None => None,
                from => Some(seq(from).ok_or(wrong(".from", expected))?),
            },
            previous_socket_ids: previous_socket_ids(members.socket_id)
                .ok_or(wrong(".socket_id", "a socket id, or a list of at most 8"))?,
        })))
    }
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
    let is_fine =
        texts.len() <= limits::PREVIOUS_SOCKETS_MAX && texts.iter().all(|it| SocketId::is_shaped(it));
    // One that no connection can have had excepts nobody.
    is_fine.then(|| texts.iter().filter_map(|text| SocketId::parse(text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_had_is_read() {
        let parse = |text: &str| ResumeRequest::parse(text).map_err(|error| error.to_string());
        assert_eq!(parse("true"), Ok(Some(ResumeRequest::Position)));
        assert_eq!(parse("false"), Ok(None));
        let (ids, more) = (["1.2", "3.4"].map(|id| SocketId::parse(id).expect("an id")), r#","x":[]"#);
        let resume = Resume { epoch: 7, seq: 5, from: Some(3), previous_socket_ids: ids.to_vec() };
        assert_eq!(
            parse(&format!(r#"{{"epoch":7,"seq":5,"from":3,"socket_id":["1.2","3.4"]{more}}}"#)),
            Ok(Some(ResumeRequest::From(resume.clone())))
        );
        assert_eq!(
            parse(r#"{"epoch":7,"seq":5,"socket_id":"1.2"}"#),
            Ok(Some(ResumeRequest::From(Resume { from: None, previous_socket_ids: vec![ids[0]], ..resume })))
        );
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
            (r#"{"epoch":7,"seq":5,"socket_id":7}"#, "`resume.socket_id` must be a socket id"),
            (r#"{"epoch":7,"seq":5,"socket_id":"x"}"#, "`resume.socket_id` must be a socket id"),
            (&format!(r#"{{"epoch":7,"seq":5,"socket_id":{:?}}}"#, ["1.2"; 9]), "`resume.socket_id` must be"),
        ] {
            let mistake = parse(text).expect_err(text);
            assert!(mistake.starts_with(error), "{text}: {mistake}");
        }
    }
}
