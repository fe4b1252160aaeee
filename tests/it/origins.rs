//! `allowed_origins` (protocol.md 6): whose pages may connect.

use crate::support::{AppSpec, Server};

#[tokio::test]
async fn only_pages_of_allowed_origins_get_in() {
    let app = AppSpec::new("4").set("allowed_origins", r#"["https://a.com", "*.b.com", "localhost:3000"]"#);
    let server = Server::builder().app(app).start().await;
    for origin in [
        "https://a.com",
        "HTTPS://A.com",
        "http://x.b.com",
        "https://y.x.b.com:8443",
        "http://localhost:3000",
    ] {
        let mut page = server.connect_from("key4", Some(origin)).await;
        page.expect_greeting().await;
        page.subscribe("news").await;
    }
    let refused = [
        "http://a.com",
        "https://a.com:8443",
        "https://a.com.evil.com",
        "https://b.com",
        "http://localhost:3001",
        "https://evil.com",
        "null",
        "",
    ];
    for origin in refused {
        assert_eq!(server.connect_from("key4", Some(origin)).await.closed().await, 4009, "{origin:?}");
    }
    // No browser, and nobody's page.
    server.connect_from("key4", None).await.expect_greeting().await;
    assert!(
        server.metrics().await.0.iter().any(|(series, count)| {
            series.contains("origin_not_allowed") && *count == refused.len() as f64
        })
    );
}

#[tokio::test]
async fn without_a_list_everybody_gets_in() {
    let server = Server::builder().start().await;
    for origin in ["https://anywhere.com", "null", ""] {
        server.connect_from("key1", Some(origin)).await.expect_greeting().await;
    }
}
