//! Pusher's signatures (protocol.md 1.2, 2.4, 2.9): pure functions, without a clock.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::app::Secret;

/// The signed text of a request: method, path and query, joined by newlines.
pub fn request_text<'a>(
    method: &str,
    path: &str,
    query: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    [method, path, &query_text(query)].join("\n")
}

/// The query in a signed text: every parameter except the signature. Keys are lower-cased and
/// sorted, values must be decoded already.
pub fn query_text<'a>(query: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut pairs: Vec<(String, &str)> = query
        .into_iter()
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .filter(|(key, _)| key != "auth_signature")
        .collect();
    // A stable sort: repeated keys (`channels[]`) keep their order.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let query: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    query.join("&")
}

/// The signed text of a subscription to a private, encrypted or presence channel.
/// `channel_data` is byte for byte as the client sent it.
pub fn subscription_text(socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        Some(data) => [socket_id, channel, data].join(":"),
        None => [socket_id, channel].join(":"),
    }
}

/// HMAC-SHA256 in lower-case hex.
pub fn sign(secret: &Secret, text: impl AsRef<[u8]>) -> String {
    hex::encode(mac(secret, text).finalize().into_bytes())
}

/// Whether `signature` is the HMAC-SHA256 of `text` under one of `secrets`, in hex of either
/// case. Each comparison takes constant time.
pub fn verify(secrets: &[Secret], text: &str, signature: &str) -> bool {
    let Ok(bytes) = hex::decode(signature) else { return false };
    secrets.iter().any(|secret| mac(secret, text).verify_slice(&bytes).is_ok())
}

/// The signed text of a sign-in (protocol.md 2.9). `user_data` is as the client sent it.
pub fn signin_text(socket_id: &str, user_data: &str) -> String {
    [socket_id, "::user::", user_data].concat()
}

/// MD5 of a request body in lower-case hex, the value of `body_md5`.
pub fn body_md5(body: &[u8]) -> String {
    hex::encode(Md5::digest(body))
}

/// HMAC-SHA256, not finalized: its caller compares it in constant time.
pub fn mac(secret: &Secret, text: impl AsRef<[u8]>) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.reveal())
        .expect("HMAC takes a key of any length")
        .chain_update(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;

    fn secret() -> Secret {
        Secret::new("7ad3773142a6692b25b8")
    }

    /// The test vectors of protocol.md 1.2, confirmed against Pusher's own libraries.
    #[test]
    fn request_signature_matches_pusher() {
        assert_eq!(body_md5(BODY.as_bytes()), "ec365a775a4cd0599faeb73354201b6f");
        let query = [
            ("auth_version", "1.0"),
            ("auth_key", "278d425bdf160c739803"),
            ("auth_timestamp", "1353088179"),
            ("auth_signature", "never part of the text"),
            ("body_md5", "ec365a775a4cd0599faeb73354201b6f"),
        ];
        let text = request_text("POST", "/apps/3/events", query);
        let signature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
        assert_eq!(sign(&secret(), &text), signature);
        assert!(verify(&[Secret::new("older"), secret()], &text, signature));
        assert!(!verify(&[secret()], &text, &signature.replace('d', "e")));
        assert!(!verify(&[secret()], &text, "not hex"));
        assert!(!verify(&[Secret::new("other")], &text, signature));
    }

    #[test]
    fn subscription_and_signin_signatures_match_pusher() {
        let private = subscription_text("1234.1234", "private-foobar", None);
        assert_eq!(
            sign(&secret(), &private),
            "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
        );
        let data = r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#;
        let presence = subscription_text("1234.1234", "presence-foobar", Some(data));
        assert_eq!(
            sign(&secret(), &presence),
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
        );
        let user = signin_text("1234.1234", r#"{"id":"12345"}"#);
        assert_eq!(
            sign(&secret(), &user),
            "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"
        );
    }
}
