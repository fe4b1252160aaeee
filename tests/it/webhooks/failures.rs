//! Receivers that fail (protocol.md 5): what the log and the metrics report, and the circuit of an
//! endpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare::limits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::receiver::Call;
use crate::support::{
    AppSpec, Backend, Cluster, Port, Receiver, Reply, STEP_TIMEOUT, Server, eventually, on_both_backends,
    within,
};

on_both_backends!(webhook_circuit_opens_after_failures_and_closes_after_a_probe);

fn app(urls: &[String]) -> AppSpec {
    let webhook = |url: &String| format!("{{ url = \"{url}\", event_types = [\"client_event\"] }}");
    let webhooks = urls.iter().map(webhook).collect::<Vec<_>>().join(", ");
    let app = AppSpec::new("1").set("enable_client_messages", true);
    app.set("max_client_events_per_second", 1_000).set("webhooks", format!("[{webhooks}]"))
}

/// The lines of the log with this message.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    // The output has the name of the node before each line.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
}

/// A server that answers a TLS handshake with plain HTTP.
async fn without_tls() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    };
    (host, tokio::spawn(serve))
}

#[tokio::test]
async fn webhook_failure_is_reported_with_host_and_cause() {
    within(Duration::from_secs(60), async {
        let (rejecting, hanging) = (Receiver::start().await, Receiver::start().await);
        rejecting.answer(|_| Reply::Status(404));
        hanging.answer(|_| Reply::Hang);
        let (closed, (plain, serving)) = (Port::hold(), without_tls().await);
        // No resolver is asked for a label of more than 63 characters.
        let unknown = format!("{}.invalid", "a".repeat(64));
        let host_of = |receiver: &Receiver| receiver.url()["http://".len()..].replace("/hook", "");
        let expected: BTreeMap<String, &str> = [
            (host_of(&rejecting), "status"),
            (host_of(&hanging), "timeout"),
            (closed.addr().to_string(), "refused"),
            (plain.clone(), "tls"),
            (unknown, "dns"),
        ]
        .into();
        let url = |(host, cause): (&String, &&str)| {
            let scheme = if *cause == "tls" { "https" } else { "http" };
            format!("{scheme}://{host}/token-hush?key=hush")
        };
        let urls: Vec<String> = expected.iter().map(url).collect();
        let cluster = Cluster::builder(Backend::Memory).app(app(&urls)).start().await;
        let mut sender = cluster.first().browser("key1").await;
        sender.subscribe("private-a").await;
        sender.trigger("private-a", "client-x", json!("1")).await;
        let server = cluster.first();
        let found = eventually("a failure of each endpoint", 3 * STEP_TIMEOUT, async || {
            let lines = lines(server, "webhook fails");
            if lines.len() == expected.len() { Ok(lines) } else { Err(format!("{lines:?}")) }
        })
        .await;
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let causes: BTreeMap<String, String> =
            found.iter().map(|line| (text(line, "host"), text(line, "cause"))).collect();
        let expected: BTreeMap<String, String> =
            expected.into_iter().map(|(host, cause)| (host, cause.to_owned())).collect();
        assert_eq!(causes, expected);
        let tls = found.iter().find(|line| line["cause"] == "tls").expect("a line");
        assert!(text(tls, "error").contains("InvalidContentType"), "{tls}");
        let metrics = server.metrics().await.0;
        for (host, cause) in &expected {
            let series = format!("fanfare_webhook_calls_failed_total{{host=\"{host}\",cause=\"{cause}\"}}");
            assert!(metrics.get(&series).is_some_and(|calls| *calls >= 1.0), "{series} in {metrics:?}");
        }
        assert!(!metrics.keys().any(|series| series.contains("hush")), "{metrics:?}");
        assert!(!server.log().contains("hush"), "{}", server.log());
        serving.abort();
    })
    .await;
}

async fn webhook_circuit_opens_after_failures_and_closes_after_a_probe(backend: Backend) {
    within(Duration::from_secs(60), async {
        let receiver = Receiver::start().await;
        receiver.answer(|_| Reply::Status(500));
        let cluster = Cluster::builder(backend).nodes(1).app(app(&[receiver.url()])).start().await;
        let server = cluster.first();
        let channels: Vec<String> =
            (0..2 * limits::WEBHOOK_CIRCUIT_FAILURES).map(|n| format!("private-{n}")).collect();
        let mut sender = server.browser("key1").await;
        for channel in &channels {
            sender.subscribe(channel).await;
            sender.trigger(channel, "client-x", json!("1")).await;
        }
        let circuits = async |open: f64| {
            eventually("the circuit", 3 * STEP_TIMEOUT, async || {
                let found = server.metrics().await.sum("fanfare_webhook_circuits_open");
                if found == open { Ok(()) } else { Err(found.to_string()) }
            })
            .await;
        };
        circuits(1.0).await;
        let calls = receiver.calls().len();
        // Each probe is for one channel. New events wait.
        sender.trigger(&channels[0], "client-x", json!("2")).await;
        let later = receiver.until("two probes", |calls_now| calls_now.len() >= calls + 2).await;
        let pause = later[calls + 1].at - later[calls].at;
        assert!(pause >= Duration::from_millis(900), "{pause:?}");
        let is_of_one_channel =
            |call: &Call| call.events().windows(2).all(|it| it[0]["channel"] == it[1]["channel"]);
        assert!(later[calls..].iter().all(is_of_one_channel));
        receiver.answer(|_| Reply::Status(200));
        receiver.until_accepted(channels.len() + 1).await;
        circuits(0.0).await;
        for message in
            ["webhook fails", "webhook circuit opened", "webhook circuit closed", "webhook has recovered"]
        {
            assert_eq!(lines(server, message).len(), 1, "{message}: {}", server.log());
        }
    })
    .await;
}
