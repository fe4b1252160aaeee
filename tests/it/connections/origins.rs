//! `allowed_origins` (protocol.md 6): the origins of pages that may connect.

use crate::support::{AppSpec, Server};

#[tokio::test]
async fn allowed_origins_refuse_pages_of_other_origins() {
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
    // A request without `Origin` does not come from a page in a browser.
    server.connect_from("key4", None).await.expect_greeting().await;
    assert!(
        server.metrics().await.0.iter().any(|(series, count)| {
            series.contains("origin_not_allowed") && *count == refused.len() as f64
        })
    );
}

#[tokio::test]
async fn allowed_origins_unset_accepts_every_origin() {
    let server = Server::builder().start().await;
    for origin in ["https://anywhere.com", "null", ""] {
        server.connect_from("key1", Some(origin)).await.expect_greeting().await;
    }
}
