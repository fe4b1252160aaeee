//! Deltas of every kind, decoded with the decoders of client libraries, without any
//! code of ours (protocol.md 3.14 and 3.15). The decoded bytes are the encoded
//! ones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanfare::delta::Algorithm;
use rand::rngs::StdRng;
use rand::{RngExt, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::support::Seed;
use crate::support::json_lines::{Client, Launch};

const PAIRS: usize = 3_000;
const TEXT_BYTES_MAX: usize = 10_000;

struct Decoder(Client);

impl Decoder {
    fn node() -> Decoder {
        Decoder(Launch::node("decoders.js").start())
    }

    /// Supports VCDIFF only.
    fn python() -> Decoder {
        Decoder(Launch::python("decoders.py").start())
    }

    async fn check(&mut self, algorithm: Algorithm, base: &[u8], delta: &[u8], target: &[u8]) {
        let report = self.decode(algorithm, base, delta).await;
        let expected = json!({ "type": "decoded", "target": STANDARD.encode(target) });
        assert!(
            report == expected,
            "{} from {:?} by {:?} to {:?} gives {report}",
            algorithm.name(),
            String::from_utf8_lossy(base),
            String::from_utf8_lossy(delta),
            String::from_utf8_lossy(target),
        );
    }

    async fn decode(&mut self, algorithm: Algorithm, base: &[u8], delta: &[u8]) -> Value {
        let [base, delta] = [base, delta].map(|bytes| STANDARD.encode(bytes));
        let command = json!({ "cmd": "decode", "algorithm": algorithm.name(), "base": base, "delta": delta });
        self.0.request(&command).await
    }
}

#[tokio::test]
async fn protocol_test_vectors_decode_with_client_decoders() {
    let (mut node, mut python) = (Decoder::node(), Decoder::python());

    let frame = |p: u8| {
        let q = "a".repeat(67);
        let data = format!(r#"{{\"p\":{p},\"q\":\"{q}\"}}"#);
        format!(r#"{{"event":"tick","channel":"m","data":"{data}"}}"#)
    };
    let fossil: &[u8] = b"1~\ni@0,1:21H@j,2SyqLx;";
    node.check(Algorithm::Fossil, frame(1).as_bytes(), fossil, frame(2).as_bytes()).await;

    let vcdiff =
        hex::decode("d6c3c4 00 00 01 05 00 0b 06 00 01 04 01 21 13 05 01 01 00".replace(' ', "")).unwrap();
    node.check(Algorithm::Vcdiff, b"hello", &vcdiff, b"hello!").await;
    python.check(Algorithm::Vcdiff, b"hello", &vcdiff, b"hello!").await;

    // The decoders report invalid input.
    let refused = json!("failed");
    assert_eq!(node.decode(Algorithm::Fossil, b"hello", fossil).await["type"], refused);
    assert_eq!(node.decode(Algorithm::Vcdiff, b"hello", b"hello").await["type"], refused);
    assert_eq!(python.decode(Algorithm::Vcdiff, b"hello", b"hello").await["type"], refused);
}

#[tokio::test]
async fn random_deltas_decode_with_client_decoders() {
    let (mut node, mut python) = (Decoder::node(), Decoder::python());
    let mut rng = Seed::new().rng();
    for _ in 0..PAIRS {
        let (base, target) = pair(&mut rng);
        for algorithm in Algorithm::ALL {
            let delta = algorithm.encode(&base, &target);
            node.check(algorithm, &base, &delta, &target).await;
            if algorithm == Algorithm::Vcdiff {
                python.check(algorithm, &base, &delta, &target).await;
            }
        }
    }
}

/// A base and a possible next text.
fn pair(rng: &mut StdRng) -> (Vec<u8>, Vec<u8>) {
    let base = text(rng);
    let target = match rng.random_range(0..8) {
        0 => base.clone(),
        1 => text(rng),
        2 => Vec::new(),
        _ => edited(&base, rng),
    };
    if rng.random_ratio(1, 2) { (base, target) } else { (target, base) }
}

fn text(rng: &mut StdRng) -> Vec<u8> {
    // Short texts as often as long ones.
    let scale = TEXT_BYTES_MAX >> rng.random_range(0..14);
    let len = rng.random_range(0..=scale);
    match rng.random_range(0..5) {
        0 => (0..len).map(|_| rng.random()).collect(),
        1 => (0..len).map(|_| rng.random_range(b'a'..=b'c')).collect(),
        2 => vec![rng.random(); len],
        3 => joined(&["čeština", "日本語", "🎺🎻", "עברית", "e\u{301}", "\u{0}", " "], len, rng),
        _ => {
            let members =
                joined(&[r#"{\"id\":"#, r#"\"price\":27.5,"#, r#"\"on\":true}"#, "1", "42", ","], len, rng);
            [br#"{"event":"tick","channel":"prices","data":""#, &members[..], br#""}"#].concat()
        }
    }
}

fn joined(words: &[&str], len: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut joined = Vec::new();
    while joined.len() < len {
        joined.extend_from_slice(words.choose(rng).unwrap().as_bytes());
    }
    joined
}

/// With some bytes replaced, repeated, moved, or turned into one long run.
fn edited(base: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut text = base.to_vec();
    for _ in 0..rng.random_range(1..8) {
        let from = rng.random_range(0..=text.len());
        let to = (from + rng.random_range(0..60)).min(text.len());
        let to = if rng.random_ratio(1, 6) { text.len() } else { to };
        match rng.random_range(0..4) {
            0 => {
                let new: Vec<u8> = (0..rng.random_range(0..12)).map(|_| rng.random()).collect();
                text.splice(from..to, new);
            }
            1 if text.len() < TEXT_BYTES_MAX => text.extend_from_within(from..to),
            2 => {
                let moved: Vec<u8> = text.drain(from..to).collect();
                let at = rng.random_range(0..=text.len());
                text.splice(at..at, moved);
            }
            _ => {
                let run = vec![b'='; rng.random_range(0..200)];
                text.splice(from..to, run);
            }
        }
    }
    text
}
