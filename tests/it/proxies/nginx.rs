//! Both APIs behind a real nginx, with common forms of `location` blocks.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::support::command::{PROGRAM, SecretFile, bare, run};
use crate::support::nginx::Nginx;
use crate::support::process::Process;
use crate::support::{Answer, Browser, Caller, Port, STEP_TIMEOUT, Server, bounded, http};

/// Directives of every `location` that forwards WebSockets.
const UPGRADE: &str = "proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;";

/// A node behind nginx. Clients connect to the address of nginx only.
struct Site {
    nginx: Nginx,
    server: Server,
    /// The prefix of the paths that clients request.
    prefix: &'static str,
}

impl Site {
    /// Starts nginx and a node with `path_prefix = prefix`.
    async fn start(prefix: &'static str, directives: &str) -> Site {
        let server = Server::builder().config(&format!("path_prefix = \"{prefix}\"")).start().await;
        let nginx = Nginx::start(server.addr(), directives).await;
        Site { nginx, server, prefix }
    }

    fn caller(&self) -> Caller {
        Caller::new(self.nginx.addr(), self.server.app("1").clone())
    }

    fn path(&self, below_app: &str) -> String {
        format!("{}/apps/1{below_app}", self.prefix)
    }

    async fn browser(&self) -> Browser {
        let mut browser = self.connect(&format!("{}/app/key1", self.prefix)).await.unwrap();
        browser.expect_greeting().await;
        browser
    }

    async fn connect(&self, path: &str) -> Result<Browser, Box<Answer>> {
        let path = format!("{path}?protocol=7&client=js&version=8.6.0&flash=false");
        Browser::connect(self.nginx.addr(), &path, Some(self.server.app("1").clone())).await
    }

    /// Sends every kind of request of a client library through nginx.
    async fn expect_both_apis(&self) {
        let caller = self.caller();
        let mut browser = self.browser().await;
        browser.subscribe("private-a:b@c").await;
        let event = json!({ "name": "e", "channel": "private-a:b@c", "data": "x" });
        caller.events(&event).path(&self.path("/events")).send().await.expect_ok();
        browser.expect_event("private-a:b@c", "e").await;
        let batch = json!([event, event]);
        caller.batch(&batch).path(&self.path("/batch_events")).send().await.expect_ok();
        browser.expect_event("private-a:b@c", "e").await;
        browser.expect_event("private-a:b@c", "e").await;
        self.expect_encoded_paths(&caller).await;
        self.expect_terminated_users(&caller).await;
    }

    async fn expect_encoded_paths(&self, caller: &Caller) {
        for channel in ["private-a%3Ab%40c", "private-a:b@c"] {
            let path = self.path(&format!("/channels/{channel}"));
            let request = || caller.request("GET", "").path(&path).query("info", "subscription_count");
            let answer = request().send().await.expect_ok();
            assert_eq!(answer, json!({ "occupied": true, "subscription_count": 1 }), "{channel}");
            request().secret("wrong").send().await.expect_error(401, "auth_failed");
        }
        for channel in ["a%2Cb%3Bc%3Dd.e_f-g", "a,b;c=d.e_f-g"] {
            let path = self.path(&format!("/channels/{channel}"));
            caller.request("GET", "").path(&path).send().await.expect_ok();
        }
        let users = self.path("/channels/presence-a%3Ab%40c/users");
        let answer = caller.request("GET", "").path(&users).send().await.expect_ok();
        assert_eq!(answer, json!({ "users": [] }));
    }

    async fn expect_terminated_users(&self, caller: &Caller) {
        let mut browser = self.browser().await;
        browser.sign_in("a:b@c;d=e").await;
        let terminate = |user: &str| self.path(&format!("/users/{user}/terminate_connections"));
        let path = terminate("a%3Ab%40c%3Bd%3De");
        caller.request("POST", "").path(&path).body("{}").send().await.expect_ok();
        assert_eq!(browser.closed().await, 4009);
        // nginx decodes these paths and may encode them differently.
        let direct = self.server.caller("1");
        for user in ["auth0%7C5f7c", "50%25", "a%20b", "n%C3%A4chste", "%23a%3Fb", "%7Ba%7D"] {
            let path = terminate(user);
            let request =
                async |caller: &Caller| caller.request("POST", "").path(&path).body("{}").send().await;
            let (answer, expected) = (request(caller).await, request(&direct).await);
            assert_ne!(expected.status, 401, "{user}: {}", expected.text());
            assert_eq!(answer.status, expected.status, "{user}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn nginx_location_root_passes_both_apis() {
    bounded(async {
        let directives = format!("location / {{ proxy_pass http://up; {UPGRADE} }}");
        Site::start("", &directives).await.expect_both_apis().await;
    })
    .await;
}

#[tokio::test]
async fn nginx_location_per_api_passes_both_apis() {
    bounded(async {
        let directives = format!(
            "location /app {{ proxy_pass http://up; {UPGRADE} }}
             location /apps {{ proxy_pass http://up; proxy_http_version 1.1; }}"
        );
        Site::start("", &directives).await.expect_both_apis().await;
    })
    .await;
}

/// The HTTP API works over HTTP/1.0, which old versions of nginx use by default.
#[tokio::test]
async fn nginx_location_per_api_over_http_1_0_passes_the_http_api() {
    bounded(async {
        let directives = format!(
            "location /app {{ proxy_pass http://up; {UPGRADE} }}
             location /apps {{ proxy_pass http://up; proxy_http_version 1.0; }}"
        );
        Site::start("", &directives).await.expect_both_apis().await;
    })
    .await;
}

/// With a URI in `proxy_pass`, nginx replaces the prefix and decodes the path.
#[tokio::test]
async fn nginx_proxy_pass_that_strips_the_prefix_passes_both_apis() {
    bounded(async {
        let directives = format!("location /realtime/ {{ proxy_pass http://up/; {UPGRADE} }}");
        Site::start("/realtime", &directives).await.expect_both_apis().await;
    })
    .await;
}

#[tokio::test]
async fn nginx_proxy_pass_that_keeps_the_prefix_passes_both_apis() {
    bounded(async {
        let directives = format!("location /realtime/ {{ proxy_pass http://up/realtime/; {UPGRADE} }}");
        Site::start("/realtime", &directives).await.expect_both_apis().await;
    })
    .await;
}

/// A URI in `proxy_pass` makes nginx decode the path also without `path_prefix`.
#[tokio::test]
async fn nginx_proxy_pass_with_a_root_uri_passes_both_apis() {
    bounded(async {
        let directives = format!("location / {{ proxy_pass http://up/; {UPGRADE} }}");
        Site::start("", &directives).await.expect_both_apis().await;
    })
    .await;
}

// --- slashes -----------------------------------------------------------------------

/// A client with the base path `/` requests `//apps/1/events`. nginx forwards that path
/// unchanged if `proxy_pass` has no URI, and otherwise merges the slashes, which the
/// client has signed.
async fn expect_repeated_slashes(prefix: &'static str, directives: &str) {
    let site = Site::start(prefix, directives).await;
    let caller = site.caller();
    let mut browser = site.connect(&format!("{prefix}//app/key1")).await.unwrap();
    browser.expect_greeting().await;
    browser.subscribe("news").await;
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    let (single, double) = (format!("{prefix}/apps/1/events"), format!("{prefix}//apps/1/events"));
    for (sent, signed) in [(&double, &double), (&double, &single), (&single, &single)] {
        let request = || caller.events(&event).path(sent).signed_as(signed);
        let answer = request().send().await;
        assert_eq!(answer.status, 200, "{sent} signed as {signed}: {}", answer.text());
        browser.expect_event("news", "e").await;
        request().secret("wrong").send().await.expect_error(401, "auth_failed");
    }
    let sent = format!("{single}/");
    for signed in [&sent, &single] {
        caller.events(&event).path(&sent).signed_as(signed).send().await.expect_ok();
        browser.expect_event("news", "e").await;
    }
}

#[tokio::test]
async fn nginx_repeated_slashes_that_are_forwarded_are_accepted() {
    bounded(async {
        let directives = format!("location / {{ proxy_pass http://up; {UPGRADE} }}");
        expect_repeated_slashes("", &directives).await;
    })
    .await;
}

#[tokio::test]
async fn nginx_repeated_slashes_with_merge_slashes_off_are_accepted() {
    bounded(async {
        let directives = format!("merge_slashes off; location / {{ proxy_pass http://up/; {UPGRADE} }}");
        expect_repeated_slashes("", &directives).await;
    })
    .await;
}

#[tokio::test]
async fn nginx_repeated_slashes_that_are_merged_are_accepted() {
    bounded(async {
        let directives = format!("location / {{ proxy_pass http://up/; {UPGRADE} }}");
        expect_repeated_slashes("", &directives).await;
    })
    .await;
}

#[tokio::test]
async fn nginx_repeated_slashes_below_a_stripped_prefix_are_accepted() {
    bounded(async {
        let directives = format!("location /realtime/ {{ proxy_pass http://up/; {UPGRADE} }}");
        expect_repeated_slashes("/realtime", &directives).await;
    })
    .await;
}

// --- lost upgrade headers --------------------------------------------------------------

#[track_caller]
fn expect_upgrade_required(answer: &Answer) {
    answer.expect_error(426, "upgrade_required");
    assert_eq!(answer.header("upgrade"), Some("websocket"), "{:?}", answer.headers);
    assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{:?}", answer.headers);
}

/// `proxy_http_version` was 1.0 by default for the first 17 years of nginx.
#[tokio::test]
async fn nginx_upgrade_over_http_1_0_is_refused_and_the_log_names_the_cause() {
    bounded(async {
        let directives = "location / {
            proxy_pass http://up;
            proxy_http_version 1.0;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection \"upgrade\";
        }";
        let site = Site::start("", directives).await;
        let Err(answer) = site.connect("/app/key1").await else { panic!("HTTP/1.0 was upgraded") };
        expect_upgrade_required(&answer);
        let line = site.server.logged("proxy_http_version 1.1").await;
        assert!(line.contains("HTTP/1.0"), "{line}");
        assert!(line.contains("WARN"), "{line}");
        let lines = site.server.log().lines().filter(|line| line.contains("proxy_http_version")).count();
        assert_eq!(lines, 1, "{}", site.server.log());
        // The HTTP API works over HTTP/1.0.
        site.caller().publish("news", "e", "x").await;
    })
    .await;
}

#[tokio::test]
async fn nginx_upgrade_without_its_headers_is_refused_and_the_log_names_the_cause() {
    bounded(async {
        let directives = "location / { proxy_pass http://up; proxy_http_version 1.1; }";
        let site = Site::start("", directives).await;
        expect_upgrade_required(&http::get(site.nginx.addr(), "/app/key1").await);
        expect_upgrade_required(&http::get(site.server.addr(), "/app/key1").await);
        assert!(!site.server.log().contains("WARN"), "no WebSocket: {}", site.server.log());
        let Err(answer) = site.connect("/app/key1").await else { panic!("a plain GET was upgraded") };
        expect_upgrade_required(&answer);
        let line = site.server.logged("proxy_set_header Upgrade $http_upgrade").await;
        assert!(line.contains("WARN"), "{line}");
    })
    .await;
}

/// Commands trust the root certificates of the system, for HTTP and for WebSockets.
#[tokio::test]
async fn nginx_with_tls_serves_commands() {
    bounded(async {
        let (dir, port) = (TempDir::new().unwrap(), Port::hold());
        let certificate = self_signed_certificate(dir.path());
        let directives = format!(
            "listen {} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};
             location / {{ proxy_pass http://up; {UPGRADE} }}",
            port.addr()
        );
        let site = Site::start("", &directives).await;
        let url = format!("https://{}", port.addr());
        let secret = SecretFile::new("secret1");
        let command = |args: &[&str]| {
            let mut command = bare(PROGRAM);
            command.args(args).args(["--url", &url, "--app-id", "1", "--key", "key1"]);
            command.args(["--secret-file", secret.path()]);
            command
        };
        let untrusted = run(&mut command(&["healthcheck"]));
        untrusted.expect_failure(&["cannot connect to 127.0.0.1", "invalid peer certificate"]);
        let untrusted = run(&mut command(&["listen", "news"]));
        untrusted.expect_failure(&["cannot connect to 127.0.0.1", "invalid peer certificate"]);

        let trusting = |args: &[&str]| {
            let mut command = command(args);
            command.env("SSL_CERT_FILE", &certificate);
            command
        };
        let mut listener = Process::spawn("listener", &mut trusting(&["listen", "news", "--count", "1"]));
        site.server.caller("1").count_becomes("news", 1).await;
        run(&mut trusting(&["trigger", "news", "greeting", "hello"])).expect_ok();
        assert_eq!(listener.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
    })
    .await;
}

/// The path of a file with a certificate for 127.0.0.1 and its key.
fn self_signed_certificate(dir: &Path) -> String {
    let file = dir.join("certificate.pem").display().to_string();
    let mut openssl = bare("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &file, "-out", "-"]);
    let certificate = run(&mut openssl).expect_ok();
    let key = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, key + &certificate).unwrap();
    file
}
