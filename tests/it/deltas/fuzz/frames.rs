//! The server's frames, as far as the clients of this test read them.

use std::borrow::Cow;

use base64::Engine;
use fanfare::delta::{fossil, vcdiff};
use memchr::memmem;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Delta<'a> {
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    #[serde(borrow)]
    delta: Cow<'a, str>,
    pub seq: u32,
    #[serde(borrow)]
    pub algorithm: Cow<'a, str>,
    #[serde(borrow, rename = "conflation_key", default)]
    pub key: Cow<'a, str>,
    pub base_index: u32,
}

/// Longer than any envelope of this test.
const TEXT_BYTES_MAX: usize = 64 * 1024;

impl Delta<'_> {
    pub fn parse(data: &str) -> Result<Delta<'_>, String> {
        serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))
    }

    pub fn decode(&self, base: &str) -> Result<String, String> {
        let delta =
            base64::prelude::BASE64_STANDARD.decode(&*self.delta).map_err(|error| error.to_string())?;
        let text = match &*self.algorithm {
            "fossil" => fossil::decode(base.as_bytes(), &delta, TEXT_BYTES_MAX).map_err(|it| it.to_string()),
            "xdelta3" => vcdiff::decode(base.as_bytes(), &delta, TEXT_BYTES_MAX).map_err(|it| it.to_string()),
            other => Err(format!("unknown algorithm: {other}")),
        }?;
        String::from_utf8(text).map_err(|error| error.to_string())
    }
}

/// The base that clients make of a full event. They cut markers at any offset of
/// the text: here the markers must be at the end only. Plain markers remain in the
/// base.
pub fn strip(text: &str, plain: bool) -> Result<String, String> {
    if plain {
        return Ok(text.to_owned());
    }
    let times = |marker: &str| memmem::find_iter(text.as_bytes(), marker).count();
    let marker = r#","__delta_seq":"#;
    match memmem::rfind(text.as_bytes(), marker.as_bytes()) {
        Some(at) if times("__delta_seq") == 1 && times("__conflation_key") <= 1 => {
            Ok(format!("{}}}", &text[..at]))
        }
        _ => Err(format!("clients would strip more than the markers of {text}")),
    }
}

/// The position members of `subscription_succeeded` and `position`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PositionData {
    pub epoch: Option<u64>,
    pub seq: Option<u32>,
    pub resumed: Option<bool>,
    pub token: Option<String>,
    pub missed: bool,
}

/// The data of `delta_cache_sync`.
#[derive(Debug, Deserialize)]
pub struct CacheSync {
    pub states: std::collections::HashMap<String, Vec<State>>,
}

#[derive(Debug, Deserialize)]
pub struct State {
    pub content: String,
    pub seq: u32,
}
