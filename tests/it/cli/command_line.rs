//! First steps with `fanfare`: printed output, refused configurations, and the log.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{CommandOutput, PROGRAM, SecretFile, bare, fanfare, run};
use crate::support::process::Process;
use crate::support::{AppSpec, Port, Redis, STEP_TIMEOUT, Server, Signal, http};

/// A configuration file in a directory of its own.
struct File {
    _dir: TempDir,
    path: String,
}

fn file(text: &str) -> File {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fanfare.toml").display().to_string();
    std::fs::write(&path, text).unwrap();
    File { _dir: dir, path }
}

const APP: &str = "[[apps]]\nid = \"7\"\nkey = \"key7\"\nsecret = \"hush-of-the-file\"\n";

// --- fanfare --dev --------------------------------------------------------------------

/// A server started with `--dev` on a port of its own, and the commands that it
/// prints.
struct Dev {
    process: Process,
    commands: Vec<String>,
}

impl Dev {
    async fn start() -> Dev {
        let args = ["--dev", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
        let process = Process::spawn("dev", bare(PROGRAM).args(args));
        let last = |line: &str| line.contains("new Pusher(").then_some(());
        process.find("end of the banner", last).await.expect("the server keeps running");
        let output = process.stdout();
        let commands = output.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned);
        Dev { commands: commands.collect(), process }
    }

    /// The printed command that contains `word`.
    fn command(&self, word: &str) -> &str {
        let found = self.commands.iter().find(|command| command.contains(word));
        found.unwrap_or_else(|| panic!("no {word} among {:?}", self.commands))
    }
}

fn shell(script: &str) -> CommandOutput {
    run(bare("sh").args(["-ec", script]))
}

#[tokio::test]
async fn dev_banner_commands_work() {
    let dev = Dev::start().await;
    let address = dev.process.stdout().lines().next().unwrap().to_owned();
    assert!(address.starts_with("fanfare listens on http://127.0.0.1:"), "{address}");

    let line = format!("exec {}", dev.command(" listen "));
    let listener = Process::spawn("listener", bare("sh").args(["-ec", &line]));
    let lines = async |what: &str, words: &[&str]| {
        let find = |line: &str| words.iter().all(|word| line.contains(word)).then_some(());
        listener.find(what, find).await.expect("the listener keeps running");
    };
    lines("subscription", &["subscription_succeeded", "news"]).await;

    assert_eq!(shell(dev.command(" trigger ")).expect_ok(), "{}\n");
    lines("event of trigger", &["greeting", "news", r#"{"hello":"world"}"#]).await;

    post_as_curl(&dev).await;
    lines("event of curl", &["greeting\tnews\thello"]).await;

    let counts: Value = serde_json::from_str(&shell(dev.command(" channel ")).expect_ok()).unwrap();
    assert_eq!(counts, json!({ "occupied": true, "subscription_count": 1 }));

    let mut listener = listener;
    listener.signal(Signal::Terminate);
    assert_eq!(listener.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
}

/// Runs the printed lines with a `curl` that only prints its arguments: not every
/// machine has one. Then sends the request that curl would.
async fn post_as_curl(dev: &Dev) {
    let body = dev.command("BODY=");
    let curl = dev.command("curl -d ");
    let words = shell(&format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{body}\n{curl}")).expect_ok();
    let words: Vec<&str> = words.lines().collect();
    let ["-d", body, url] = words[..] else { panic!("curl was called with {words:?}") };
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let request = hyper::Request::post(format!("/{path}"))
        .header("host", addr)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(http::whole(body.to_owned()))
        .unwrap();
    let answer = http::Connection::new(addr.parse().unwrap()).send(request).await.unwrap();
    assert_eq!(answer.expect_ok(), json!({}));
}

/// The last printed line, run in the library that it is for.
#[tokio::test]
async fn dev_banner_browser_line_connects() {
    let dev = Dev::start().await;
    let clients = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(clients.join("node_modules").exists(), "npm packages are not installed: run scripts/setup");
    let script = format!(
        "import Pusher from 'pusher-js'; const pusher = {}; \
         pusher.connection.bind('connected', () => {{ console.log('connected'); process.exit(0) }})",
        dev.command("new Pusher(")
    );
    let mut command = bare("node");
    command.current_dir(clients).args(["--input-type=module", "-e", &script]);
    let browser = Process::spawn("browser", &mut command);
    let connected = |line: &str| (line == "connected").then_some(());
    browser.find("connection", connected).await.expect("pusher-js connects");
}

/// `listen --delta` shows the bytes that deltas saved; `trigger --file` sends a
/// batch.
#[tokio::test]
async fn listen_command_shows_bytes_saved_by_deltas() {
    let no_interval = "[delta_compression]\nfull_message_interval = 0";
    let server = Server::builder().config(no_interval).start().await;
    let url = format!("http://{}", server.addr());
    let secret = SecretFile::new("secret1");
    let target = ["--url", &url, "--app-id", "1", "--key", "key1", "--secret-file", secret.path()];
    let mut command = bare(PROGRAM);
    command.args(["listen", "private-room", "news", "--delta", "--count", "6"]).args(target);
    let mut listener = Process::spawn("listener", &mut command);
    for _ in 0..2 {
        let confirmed = |line: &str| line.contains("delta_compression_enabled").then_some(());
        listener.find("confirmation", confirmed).await.expect("the listener keeps running");
    }
    server.caller("1").count_becomes("news", 1).await;
    let event = |number: usize| {
        let channel = if number == 0 { "private-room" } else { "news" };
        json!({ "name": "tick", "channel": channel, "data": { "number": number, "same": "s".repeat(500) } })
    };
    let batch = file(&json!((0..6).map(event).collect::<Vec<_>>()).to_string());
    let sent = run(bare(PROGRAM).args(["trigger", "--file", &batch.path]).args(target));
    assert_eq!(sent.expect_ok(), "{}\n");
    assert_eq!(listener.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
    let out = listener.stdout();
    assert_eq!(out.lines().filter(|line| line.starts_with("delta\t")).count(), 4, "{out}");
    for number in 1..6 {
        assert!(out.contains(&format!(r#"{{"number":{number},"same":"sss"#)), "{out}");
    }
    assert!(out.lines().last().unwrap().starts_with("6 events: 2 full, 4 deltas; "), "{out}");
}

/// `listen` subscribes to presence channels as a user.
#[tokio::test]
async fn listen_command_subscribes_as_presence_member() {
    let server = Server::builder().start().await;
    let url = format!("http://{}", server.addr());
    let secret = SecretFile::new("secret1");
    let target = ["--url", &url, "--app-id", "1", "--key", "key1", "--secret-file", secret.path()];
    let mut command = bare(PROGRAM);
    command.args(["listen", "presence-room", "--user", "ann", "--count", "1"]).args(target);
    let mut listener = Process::spawn("listener", &mut command);
    let confirmed = |line: &str| line.contains("subscription_succeeded").then(|| line.to_owned());
    let roster = listener.find("confirmation", confirmed).await.expect("the listener keeps running");
    assert!(roster.contains(r#""ids":["ann"]"#), "{roster}");
    server.caller("1").publish("presence-room", "e", "x").await;
    assert_eq!(listener.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
}

#[test]
fn version_flag_prints_version() {
    assert_eq!(fanfare(&["--version"]).expect_ok(), format!("fanfare {}\n", env!("CARGO_PKG_VERSION")));
}

// --- configuration ---------------------------------------------------------------------

#[test]
fn start_without_app_fails_with_required_settings() {
    let words = ["FANFARE_APP_ID", "FANFARE_APP_KEY", "FANFARE_APP_SECRET", "[[apps]]", "--config", "--dev"];
    fanfare(&[]).expect_failure(&words);
    let empty = file("listen = \"127.0.0.1:0\"\n");
    fanfare(&["--config", &empty.path]).expect_failure(&words);
    // An app with a missing setting: the error names the setting and how to set it.
    let half = file("[[apps]]\nid = \"7\"\nkey = \"key7\"\n");
    fanfare(&["--config", &half.path]).expect_failure(&["secret", "FANFARE_APP_SECRET", "line 1"]);
}

#[test]
fn unknown_setting_is_refused_with_nearest_name() {
    let section = "[delta_compression]\nfull_mesage_interval = 5\n";
    let text = format!("metrics_lisen = \"127.0.0.1:0\"\n{APP}max_batch_events = 5\n{section}");
    let wrong = file(&text);
    let mut command = bare(PROGRAM);
    command.args(["--config", &wrong.path]).env("FANFARE_LISTN", "127.0.0.1:0");
    command.env("FANFARE_DELTA_COMPRESION__ENABLED", "true");
    // One error lists all of them.
    run(&mut command).expect_failure(&[
        "`metrics_lisen`",
        "`metrics_listen`",
        "line 1",
        "full_mesage_interval",
        "`delta_compression.full_message_interval`",
        "max_batch_events",
        "FANFARE_LISTN",
        "`FANFARE_LISTEN`",
        "`FANFARE_DELTA_COMPRESSION__ENABLED`",
    ]);
}

#[test]
fn invalid_value_is_refused_with_line_number() {
    let wrong = file(&format!("listen = \"somewhere\"\n{APP}max_event_batch_size = 0\n"));
    let words = ["`listen`", "somewhere", "line 1", "max_event_batch_size", "line 6"];
    fanfare(&["--config", &wrong.path]).expect_failure(&words);
    fanfare(&["--config", "/nowhere/fanfare.toml"]).expect_failure(&["/nowhere/fanfare.toml"]);
    let not_toml = file("listen = = 1\n");
    fanfare(&["--config", &not_toml.path]).expect_failure(&["line 1"]);
}

#[test]
fn print_config_shows_origins_and_hides_secrets() {
    let text = format!(
        "listen = \"127.0.0.1:1111\"\nactivity_timeout = 77\nredis = \"redis://:hush-of-redis@h:1\"\n{APP}"
    );
    let file = file(&text);
    let mut command = bare(PROGRAM);
    command.args(["--print-config", "--listen", "127.0.0.1:3333"]);
    command.env("FANFARE_CONFIG", &file.path).env("FANFARE_LISTEN", "127.0.0.1:2222");
    command.env("FANFARE_ACTIVITY_TIMEOUT", "88").env("FANFARE_APP_SECRET", "hush-of-env");
    let output = run(&mut command);
    assert!(!output.err.contains("hush"), "{}", output.err);
    let out = output.expect_ok();
    assert!(!out.contains("hush"), "{out}");
    let row = |key: &str| {
        let is_row = |line: &&str| line.starts_with(&format!("{key} = "));
        out.lines().find(is_row).unwrap_or_else(|| panic!("no {key} in {out}"))
    };
    for (key, value, origin) in [
        ("listen", "127.0.0.1:3333", "flag --listen"),
        ("activity_timeout", "88", "env FANFARE_ACTIVITY_TIMEOUT"),
        ("redis", "redis://", "line 3"),
        ("metrics_listen", "127.0.0.1:9601", "default"),
        ("apps[0].key", "key7", "line 6"),
        ("apps[0].secret", "[hidden]", "env FANFARE_APP_SECRET"),
        ("config", "fanfare.toml", "env FANFARE_CONFIG"),
    ] {
        let row = row(key);
        assert!(row.contains(value) && row.contains(origin), "{value} and {origin} are not in {row}");
    }
}

/// Sockudo's delta and tag settings are accepted, and printed as Fanfare interprets
/// them.
#[test]
fn print_config_shows_sockudo_delta_and_tag_settings() {
    let text = format!(
        "{APP}[apps.channel_delta_compression]\n\"quiet-*\" = \"Disabled\"\n\
         \"market-*\" = {{ algorithm = \"VCDIFF\", conflation_key = \"data.asset\", max_conflation_keys = 50 }}\n\
         [delta_compression]\nalgorithm = \"Xdelta3\"\nmarkers = \"plain\"\nmax_channel_states_per_socket = 100\n\
         [tag_filtering]\nenabled = true\n"
    );
    let file = file(&text);
    let mut command = bare(PROGRAM);
    command.args(["--check", "--print-config", "--config", &file.path]);
    command.env("FANFARE_DELTA_COMPRESSION__CLUSTER_COORDINATION", "true");
    let out = run(command.env("FANFARE_DELTA_COMPRESSION__CONFLATION_KEY_PATH", "data.id")).expect_ok();
    for line in [
        "apps[0].channel_delta_compression = { \"market-*\" = { algorithm = \"xdelta3\", \
         conflation_key = \"asset\", max_conflation_keys = 50 }, \"quiet-*\" = \"disabled\" } ",
        "delta_compression.algorithm = \"xdelta3\" ",
        "delta_compression.markers = \"plain\" ",
        "delta_compression.cache_sync = false ",
        "delta_compression.conflation_key_path = \"id\" ",
        "delta_compression.max_conflation_states_per_channel = 100 ",
        "delta_compression.max_channel_states_per_socket = 100 ",
        "delta_compression.cluster_coordination = \"true\" ",
        "tag_filtering.enabled = true ",
        "tag_filtering.enable_tags = true ",
    ] {
        assert!(out.lines().any(|it| it.starts_with(line)), "no {line}in\n{out}");
    }
}

/// The effective setting, not only the printed one: file, then environment, then
/// flag, each overriding the one before.
#[tokio::test]
async fn flag_overrides_environment_and_environment_overrides_file() {
    let file = Server::builder().start().await;
    assert_eq!(file.addr().ip().to_string(), "127.0.0.1");
    let env = Server::builder().env("FANFARE_LISTEN", "127.0.0.2:0").start().await;
    assert_eq!(env.addr().ip().to_string(), "127.0.0.2");
    let both = Server::builder().env("FANFARE_LISTEN", "127.0.0.2:0").arg("--listen").arg("127.0.0.3:0");
    let flag = both.start().await;
    assert_eq!(flag.addr().ip().to_string(), "127.0.0.3");
    assert_eq!(flag.get("/ready").await.status, 200);
}

#[tokio::test]
async fn server_listens_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6: skipped");
        return;
    }
    let server = Server::builder().arg("--listen").arg("[::1]:0").start().await;
    assert!(server.addr().is_ipv6());
    let mut browser = server.browser("key1").await;
    browser.subscribe("news").await;
    server.caller("1").publish("news", "e", "x").await;
    browser.expect_event("news", "e").await;
    let url = format!("http://{}", server.addr());
    assert_eq!(fanfare(&["healthcheck", "--url", &url]).code, Some(0));
    // On all addresses of this machine, IPv4 and IPv6.
    let every = Server::builder().arg("--listen").arg("[::]:0").start().await;
    for host in ["127.0.0.1", "[::1]"] {
        let addr = format!("{host}:{}", every.addr().port()).parse().unwrap();
        assert_eq!(http::get(addr, "/ready").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn address_in_use_is_reported() {
    let server = Server::builder().start().await;
    let taken = server.addr().to_string();
    let (status, output) = Server::builder().arg("--listen").arg(&taken).start_refused().await;
    assert_eq!(status.code(), Some(1));
    assert!(output.contains(&taken), "{output}");
}

#[tokio::test]
async fn healthcheck_reports_state_by_exit_code() {
    let server = Server::builder().config("drain_delay = 3600").start().await;
    let url = format!("http://{}", server.addr());
    assert_eq!(fanfare(&["healthcheck", "--url", &url]).code, Some(0));
    // As in a container, with the address in the environment.
    let listen = format!("0.0.0.0:{}", server.addr().port());
    let in_container = run(bare(PROGRAM).arg("healthcheck").env("FANFARE_LISTEN", listen));
    in_container.expect_ok();

    server.signal(Signal::Terminate);
    server.logged("\"draining\"").await;
    fanfare(&["healthcheck", "--url", &url]).expect_failure(&["503", "draining"]);

    let unused = Port::hold();
    let unused_url = format!("http://{}", unused.addr());
    fanfare(&["healthcheck", "--url", &unused_url]).expect_failure(&["cannot connect"]);
}

/// Commands find the server and the app in the configuration of the server.
#[tokio::test]
async fn commands_read_the_configuration_of_the_server() {
    let server = Server::builder().config("path_prefix = \"/x\"\ndrain_delay = 3600").start().await;
    let port = server.addr().port();
    let healthcheck = |listen: &str| run(bare(PROGRAM).arg("healthcheck").env("FANFARE_LISTEN", listen));
    healthcheck(&format!(" localhost:{port} ")).expect_ok();
    healthcheck(&format!("{port}")).expect_failure(&["`listen`", "HOST:PORT", "FANFARE_LISTEN"]);

    let apps = "[[apps]]\nid = \"1\"\nkey = \"key1\"\nsecret = \"secret1\"\n";
    let config = file(&format!("listen = \"localhost:{port}\"\npath_prefix = \"/x\"\n{apps}"));
    let by_flag = |args: &[&str]| run(bare(PROGRAM).args(args).args(["--config", &config.path]));
    by_flag(&["healthcheck"]).expect_ok();
    by_flag(&["trigger", "news", "e", "x"]).expect_ok();
    by_flag(&["channel", "news"]).expect_ok();
    let url = by_flag(&["sign", "GET", "/apps/1/channels"]).expect_ok();
    let path = url.trim().strip_prefix(&format!("http://127.0.0.1:{port}")).unwrap();
    assert!(path.starts_with("/x/apps/1/channels?"), "{path}");
    server.get(path).await.expect_ok();
    let mut by_variable = bare(PROGRAM);
    by_variable.args(["trigger", "news", "e", "x"]).env("FANFARE_CONFIG", &config.path);
    run(&mut by_variable).expect_ok();
    // The environment overrides the file, as it does for the server.
    run(by_variable.env("FANFARE_APP_SECRET", "another")).expect_failure(&["401"]);
    by_flag(&["trigger", "news", "e", "x", "--app-id", "9"]).expect_failure(&["no app 9", "--secret-file"]);

    server.signal(Signal::Terminate);
    server.logged("\"draining\"").await;
    by_flag(&["healthcheck"]).expect_failure(&["503", "draining"]);
    assert_eq!(by_flag(&["healthcheck", "--live"]).expect_ok(), "{\"status\":\"live\"}\n");
}

/// A response of something that is not a server of ours: its control characters must not reach the
/// terminal.
#[tokio::test]
async fn control_characters_of_responses_are_escaped() {
    for status in ["200 OK", "400 Bad Request"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let body = "a\u{1b}[2Jb\nc";
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let respond = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        });
        let output = run(bare(PROGRAM).args(["trigger", "news", "e", "x", "--url", &url]));
        respond.join().unwrap();
        let printed = output.out + &output.err;
        assert!(printed.contains("a\\u{1b}[2Jb\\nc"), "{printed:?}");
        assert!(!printed.contains('\u{1b}'), "{printed:?}");
    }
}

// --- secrets ----------------------------------------------------------------------------------

/// One rule for all sources: line breaks at the end are removed; quotes are refused.
#[test]
fn secrets_of_all_sources_follow_one_rule() {
    let check = |source: &str, secret: &str| {
        let mut command = bare(PROGRAM);
        let (in_file, secret_file) = (file(""), SecretFile::new(secret));
        let toml = |secret: &str| format!("[[apps]]\nid = \"7\"\nkey = \"k\"\n{secret}");
        command.args(["--check", "--config", &in_file.path]);
        let text = match source {
            "file" => toml(&format!("secret = {secret:?}\n")),
            "list" => toml(&format!("secrets = [{secret:?}]\n")),
            "variable" => {
                command.env("FANFARE_APP_SECRET", secret);
                toml("")
            }
            _ => {
                command.env("FANFARE_APP_SECRET_FILE", secret_file.path());
                toml("")
            }
        };
        std::fs::write(&in_file.path, text).unwrap();
        run(&mut command)
    };
    for source in ["file", "list", "variable", "variable with a file"] {
        check(source, "hush\n").expect_ok();
        for wrong in ["\"hush\"", "'hush'\n", " hush", "\n"] {
            let refused = check(source, wrong).expect_failure(&["apps[0].secret", "without quotes"]);
            assert!(!refused.contains("hush"), "{refused}");
        }
    }
    let quoted = SecretFile::new("\"hush\"\n");
    let options = ["--app-id", "7", "--key", "k", "--secret-file", quoted.path()];
    let refused = run(bare(PROGRAM).args(["sign", "GET", "/apps/7/channels"]).args(options));
    refused.expect_failure(&["the secret in", "without quotes"]);
}

/// No option takes a secret itself: other users of a machine can read arguments.
#[test]
fn secrets_are_not_arguments() {
    for args in [&["trigger", "c", "e", "x"][..], &["app", "add", "--id", "7"], &["app", "rotate", "7"]] {
        let output = run(bare(PROGRAM).args(args).args(["--secret", "hush"]));
        assert_eq!(output.code, Some(2), "{}", output.err);
    }
    let with_password = ["--redis", "redis://:hush@127.0.0.1:1"];
    let output = run(bare(PROGRAM).args(["--check", "--dev"]).args(with_password));
    assert!(output.err.contains("warning: the password of Redis is an argument"), "{}", output.err);
    assert!(!output.err.contains("hush"), "{}", output.err);
}

#[test]
fn configuration_file_with_secrets_that_others_can_read_causes_a_warning() {
    let warnings = |text: &str, mode: u32| {
        let file = file(text);
        std::fs::set_permissions(&file.path, Permissions::from_mode(mode)).unwrap();
        let mut command = bare(PROGRAM);
        command.args(["--check", "--config", &file.path]).env("FANFARE_APP_KEY", "key7");
        let output = run(command.env("FANFARE_APP_ID", "7").env("FANFARE_APP_SECRET", "hush"));
        assert_eq!(output.code, Some(0), "{}", output.err);
        output.err
    };
    let other_app = "[[apps]]\nid = \"8\"\nkey = \"key8\"\nsecret = \"hush8\"\n";
    for (text, mode, is_warned) in [
        (other_app, 0o644, true),
        (other_app, 0o640, false),
        (other_app, 0o600, false),
        ("redis = \"redis://:hush@h\"\n", 0o604, true),
        ("redis = \"redis://h\"\n", 0o644, false),
        ("activity_timeout = 7\n", 0o644, false),
    ] {
        let warnings = warnings(text, mode);
        let mode = format!("(mode {mode:o})");
        assert_eq!(
            warnings.contains("contains secrets") && warnings.contains(&mode),
            is_warned,
            "{warnings}"
        );
    }
}

// --- the log --------------------------------------------------------------------------------

const SECRET: &str = "hush-5f0c2a";
const PAYLOAD: &str = "payload-77b1d9";
const REDIS_PASSWORD: &str = "hush-of-redis-31";

/// A node with this log filter, on a Redis with a password.
async fn logging_node(filter: &str) -> (Redis, Server) {
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", REDIS_PASSWORD]).await;
    let mut app = AppSpec::new("8");
    app.secret = SECRET.into();
    let url = redis.url().replace("redis://", &format!("redis://:{REDIS_PASSWORD}@"));
    let server = Server::builder().app(app).redis_url(&url).env("FANFARE_LOG", filter).start().await;
    (redis, server)
}

/// Sends every value that must not be logged, and returns these values.
async fn send_secrets(server: &Server) -> Vec<String> {
    let caller = server.caller("8");
    let mut browser = server.browser("key8").await;
    let signature = browser.sign("private-room").split(':').nth(1).unwrap().to_owned();
    browser.subscribe("private-room").await;
    browser.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
    assert_eq!(browser.next().await.event, "pusher:delta_compression_enabled");
    let large = format!("{PAYLOAD}{}", "x".repeat(500));
    caller.publish("private-room", "e", &large).await;
    caller.publish("private-room", "e", &large).await;
    browser.next().await;
    browser.next().await;
    // Refused values must not be logged either.
    let mut client = server.browser("key8").await;
    let wrong = "0123456789abcdef".repeat(4);
    client.subscribe_raw(json!({ "channel": "private-room", "auth": format!("key8:{wrong}") })).await;
    client.expect_subscription_error("private-room").await;
    client.send_text(&format!("{{not json {PAYLOAD}")).await;
    client.expect_error().await;
    client.send(json!({ "event": "client-x", "channel": "private-room", "data": PAYLOAD })).await;
    client.expect_error().await;
    let event = json!({ "name": "e", "channel": "private-room", "data": PAYLOAD });
    caller.events(&event).signature(&wrong).send().await.expect_error(401, "auth_failed");
    let bad = json!({ "name": "", "channel": "private-room", "data": PAYLOAD });
    caller.post_events(bad).await.expect_error(400, "invalid_input");
    [SECRET, PAYLOAD, REDIS_PASSWORD, &wrong, &signature].map(str::to_owned).into()
}

#[track_caller]
fn expect_no_secrets(log: &str, secrets: &[String]) {
    for secret in secrets {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(secret.as_str())).collect();
        assert!(lines.is_empty(), "{} lines contain {secret}, the first: {}", lines.len(), lines[0]);
    }
}

/// Not on a terminal: every line of the log is a JSON object.
#[tokio::test]
async fn log_is_json_without_secrets() {
    let (_redis, mut server) = logging_node("debug").await;
    let secrets = send_secrets(&server).await;
    server.signal(Signal::Terminate);
    assert_eq!(server.wait_exit(crate::support::TEST_TIME_MAX).await.code(), Some(0));
    let log = server.log();
    let lines: Vec<&str> = log.lines().map(|line| line.split_once("| ").unwrap().1).collect();
    for line in &lines {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
    assert!(log.contains("\"DEBUG\""), "no line at debug level:\n{log}");
    expect_no_secrets(&log, &secrets);
}

#[tokio::test]
async fn trace_log_contains_no_secrets() {
    let (redis, server) = logging_node("trace").await;
    let secrets = send_secrets(&server).await;
    let log = server.log();
    // Dropped first: a failure would print the whole log.
    drop((server, redis));
    expect_no_secrets(&log, &secrets);
}

/// Help for debugging a client, at debug only: the text that should have been
/// signed, without any signature.
#[tokio::test]
async fn refused_signature_is_explained_at_debug_level() {
    let server = Server::builder().env("FANFARE_LOG", "debug").start().await;
    let caller = server.caller("1");
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    let request = caller.events(&event).query("b", "Two Words").query("A", "1").secret("another");
    request.send().await.expect_error(401, "auth_failed");
    let line = server.logged("signature refused").await;
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["level"], "DEBUG");
    let signed = entry["signed"].as_str().unwrap();
    assert!(signed.starts_with("POST\\n/apps/1/events\\na=1&auth_key=key1&auth_timestamp="), "{signed}");
    assert!(signed.contains("&b=Two Words&body_md5=") && !signed.contains("auth_signature"), "{signed}");

    // At info, a single request is not logged.
    let quiet = Server::builder().start().await;
    let caller = quiet.caller("1");
    caller.events(&event).secret("another").send().await.expect_error(401, "auth_failed");
    caller.publish("news", "e", "x").await;
    assert!(!quiet.log().contains("signature refused") && !quiet.log().contains("news"), "{}", quiet.log());
}
