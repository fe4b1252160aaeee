//! `fanfare sign`: prints a signed URL for curl. The other commands use its functions.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::CliError;
use super::input::read_file;
use super::output;
use super::target::{Credentials, Target};
use crate::auth;
use crate::config::Environment;

/// Print a signed URL for curl, valid for ten minutes.
#[derive(Debug, clap::Args)]
pub struct Sign {
    /// HTTP method, such as GET or POST
    method: String,
    /// Path of the request, such as /apps/1001/events
    path: String,
    /// Body of the request
    #[arg(long, conflicts_with = "body_file")]
    body: Option<String>,
    /// File with the body of the request; - is stdin
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Further query parameter; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    query: Vec<(String, String)>,
    #[command(flatten)]
    target: Target,
}

impl Sign {
    pub(super) fn run(self, environment: &Environment) -> Result<(), CliError> {
        let server = self.target.server(environment)?;
        let app = self.target.credentials(environment)?;
        let body = match (self.body, &self.body_file) {
            (Some(body), _) => body.into_bytes(),
            (None, Some(path)) => read_file(path)?,
            (None, None) => Vec::new(),
        };
        let target = signed_target(&app, &self.method, &self.path, &self.query, &body, now())?;
        Ok(output::line(&server.http_url(&target))?)
    }
}

/// Path and query of a signed request (protocol.md 1.2).
pub(super) fn signed_target(
    app: &Credentials,
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: &[u8],
    timestamp: u64,
) -> Result<String, CliError> {
    let usable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    // HTTP clients remove such segments, which would invalidate the signature.
    let has_dot_segment = path.split('/').any(|segment| matches!(segment, "." | ".."));
    if !path.starts_with('/') || !path.bytes().all(usable) || has_dot_segment {
        return Err(CliError::BadPath { path: path.to_owned() });
    }
    let reserved =
        |name: &str| name.to_ascii_lowercase().starts_with("auth_") || name.eq_ignore_ascii_case("body_md5");
    if let Some((name, _)) = query.iter().find(|(name, _)| reserved(name)) {
        return Err(CliError::ReservedParameter { name: name.clone() });
    }
    let (timestamp, md5) = (timestamp.to_string(), auth::body_md5(body));
    let mut pairs =
        vec![("auth_key", app.key.as_str()), ("auth_timestamp", &timestamp), ("auth_version", "1.0")];
    if !body.is_empty() {
        pairs.push(("body_md5", &md5));
    }
    pairs.extend(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let text = auth::request_text(&method.to_ascii_uppercase(), path, pairs.iter().copied());
    let signature = auth::sign(&app.secret, &text);
    pairs.push(("auth_signature", &signature));
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    Ok(format!("{path}?{}", pairs.join("&")))
}

/// All characters except those that need no escape in any part of a URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encoded for a segment of a path or a part of a query.
pub(super) fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ESCAPED)
}

/// Seconds since 1970, the unit of `auth_timestamp`.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn parameter(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Secret;

    fn app() -> Credentials {
        let secret = Secret::new("7ad3773142a6692b25b8");
        Credentials { app_id: "3".into(), key: "278d425bdf160c739803".into(), secret }
    }

    /// The vector of protocol.md 1.2.
    #[test]
    fn signed_target_matches_the_protocol_vector() {
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let target =
            signed_target(&app(), "post", "/apps/3/events", &[], body, 1_353_088_179).expect("signed");
        assert_eq!(
            target,
            "/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
             &body_md5=ec365a775a4cd0599faeb73354201b6f\
             &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
    }

    #[test]
    fn signed_target_signs_raw_parameters_and_sends_them_encoded() {
        let query = [("info".to_owned(), "user_count,subscription_count".to_owned())];
        let target = signed_target(&app(), "GET", "/apps/3/channels/a%23b", &query, b"", 7).expect("signed");
        assert!(target.contains("&info=user_count%2Csubscription_count&auth_signature="), "{target}");
        assert!(!target.contains("body_md5"), "{target}");
        let text = "GET\n/apps/3/channels/a%23b\nauth_key=278d425bdf160c739803&auth_timestamp=7&auth_version=1.0\
                    &info=user_count,subscription_count";
        assert!(target.ends_with(&auth::sign(&app().secret, text)), "{target}");
    }

    #[test]
    fn signed_target_rejects_requests_that_would_not_verify() {
        for path in ["apps/3", "/apps/3?info=x", "/apps/3/a b", "/apps/3#x", "/ä", "/apps/3/channels/.."] {
            let refused = signed_target(&app(), "GET", path, &[], b"", 7);
            assert!(matches!(refused, Err(CliError::BadPath { .. })), "{path}");
        }
        let query = [("auth_key".to_owned(), "x".to_owned())];
        let refused = signed_target(&app(), "GET", "/apps", &query, b"", 7);
        assert!(matches!(refused, Err(CliError::ReservedParameter { .. })));
    }
}
