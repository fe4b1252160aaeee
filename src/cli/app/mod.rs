//! `fanfare app`: manages the apps stored in Redis while nodes run.

mod settings;

use std::path::{Path, PathBuf};

use super::error::CliError;
use super::input::read_secret;
use super::output;
use crate::app::Secret;
use crate::backend::redis::apps::{AppStore, ChangeError};
use crate::backend::{BackendError, StoredApp};
use crate::config::{self, Environment, Flags};

use settings::{AppSettings, Changes, is_enabled};

/// Attempts of a change: another client may change the app between the read and the write.
const ATTEMPTS_MAX: usize = 5;

/// Manage the apps stored in Redis, without a restart of nodes.
#[derive(Debug, clap::Args)]
pub struct AppCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    store: Store,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Redis")]
struct Store {
    /// URL of the Redis that the nodes share, without a password, which other users of the machine
    /// could read [env: FANFARE_REDIS or FANFARE_REDIS_FILE]
    #[arg(long, value_name = "URL", global = true)]
    redis: Option<String>,
    /// Configuration file of the nodes, for the URL and the prefix [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Prefix of the nodes' Redis keys [env: FANFARE_REDIS_PREFIX] [default: fanfare]
    #[arg(long, value_name = "PREFIX", global = true)]
    redis_prefix: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Add(Add),
    Set(Set),
    /// List the ids, keys and states of all apps
    List,
    /// Disable an app: close its connections and refuse its API calls
    Disable {
        /// Id of the app
        id: String,
    },
    /// Enable a disabled app
    Enable {
        /// Id of the app
        id: String,
    },
    Rotate(Rotate),
    /// Remove an app and close its connections
    Remove {
        /// Id of the app
        id: String,
    },
}

/// Add an app
#[derive(Debug, clap::Args)]
struct Add {
    /// Id of the app; digits only for Pusher's Python library
    #[arg(long)]
    id: String,
    /// Key of the app [default: random]
    #[arg(long)]
    key: Option<String>,
    /// File with the secret of the app; - is stdin [default: random]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Setting of the app, as in [[apps]] of the configuration; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// File with settings of the app, as below [[apps]]; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Change settings of an app; the others stay as they are
#[derive(Debug, clap::Args)]
struct Set {
    /// Id of the app
    id: String,
    /// Setting, as in [[apps]] of the configuration
    #[arg(value_name = "KEY=VALUE", required_unless_present_any = ["unset", "file"])]
    set: Vec<String>,
    /// Key of a setting to remove, so that its default applies; repeatable
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// File with settings, as below [[apps]]; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Add a new secret to an app; older ones stay valid until --drop-old
#[derive(Debug, clap::Args)]
struct Rotate {
    /// Id of the app
    id: String,
    /// File with the new secret; - is stdin [default: random]
    #[arg(long, value_name = "FILE", conflicts_with = "drop_old")]
    secret_file: Option<PathBuf>,
    /// End of a rotation: remove all secrets except the newest
    #[arg(long)]
    drop_old: bool,
}

/// The secret in the file, or a random one.
fn secret(file: Option<&Path>) -> Result<Secret, CliError> {
    file.map_or_else(|| Ok(Secret::new(random_hex(20))), read_secret)
}

impl AppCommand {
    /// Reports invalid arguments and files before it connects to Redis.
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let Store { config, redis, redis_prefix } = self.store;
        let flags = Flags { config, redis, redis_prefix, ..Flags::default() };
        let target = config::redis_target(&flags, environment)?;
        if flags.redis.as_deref().is_some_and(|url| config::hide_password(url) != url) {
            output::error(&format!("warning: {}", config::Warning::PasswordInArgument));
        }
        let store = async || AppStore::connect(&target.url, &target.prefix).await;
        match self.action {
            Action::Add(options) => {
                let app = options.settings()?;
                add(&store().await?, &app).await
            }
            Action::Set(Set { id, set, unset, file }) => {
                let changes = Changes::read(file.as_deref(), &set, &unset)?;
                change(&store().await?, &id, |app| app.apply(&changes)).await?;
                print(&format!("app {id} is changed"))
            }
            Action::List => list(&store().await?).await,
            Action::Disable { id } => {
                change(&store().await?, &id, |app| app.set_enabled(false)).await?;
                print(&format!("app {id} is disabled"))
            }
            Action::Enable { id } => {
                change(&store().await?, &id, |app| app.set_enabled(true)).await?;
                print(&format!("app {id} is enabled"))
            }
            Action::Rotate(Rotate { id, drop_old: true, .. }) => drop_old(&store().await?, &id).await,
            Action::Rotate(Rotate { id, secret_file, .. }) => {
                let secret = secret(secret_file.as_deref())?;
                rotate(&store().await?, &id, &secret).await
            }
            Action::Remove { id } => {
                remove(&store().await?, &id).await?;
                print(&format!("app {id} is removed"))
            }
        }
    }
}

impl Add {
    fn settings(&self) -> Result<AppSettings, CliError> {
        let key = self.key.clone().unwrap_or_else(|| random_hex(10));
        let secret = secret(self.secret_file.as_deref())?;
        let changes = Changes::read(self.file.as_deref(), &self.set, &[])?;
        let app = AppSettings::new(&self.id, &key, &secret, &changes);
        app.check()?;
        Ok(app)
    }
}

async fn add(store: &AppStore, app: &AppSettings) -> Result<(), CliError> {
    let (id, key) = (app.text("id"), app.text("key"));
    store.add(id, key, &app.to_string()).await.map_err(|error| failed(id, error))?;
    if !id.bytes().all(|byte| byte.is_ascii_digit()) {
        output::error(&format!(
            "warning: Pusher's Python library will refuse the id {id}: it is not all digits"
        ));
    }
    print(&format!("app {id} is added. Its backend needs:\n"))?;
    print(&format!("PUSHER_APP_ID={id}\nPUSHER_APP_KEY={key}\nPUSHER_APP_SECRET={}", app.text("secret")))
}

async fn list(store: &AppStore) -> Result<(), CliError> {
    let apps = store.list().await.map_err(unread)?;
    let row = |(id, text): &(String, String)| {
        let app = AppSettings::parse(text);
        let key = app.as_ref().map_or("?", |app| app.text("key"));
        let state = match app.as_ref().is_some_and(is_enabled) {
            true => "enabled",
            false if app.is_some() => "disabled",
            false => "not understood",
        };
        [id, key, state].map(output::printable)
    };
    let rows: Vec<[String; 3]> =
        std::iter::once(["ID", "KEY", "STATE"].map(str::to_owned)).chain(apps.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (ids, keys) = (width(0), width(1));
    rows.iter().try_for_each(|[id, key, state]| print(&format!("{id:ids$}  {key:keys$}  {state}")))
}

async fn drop_old(store: &AppStore, id: &str) -> Result<(), CliError> {
    let app = change(store, id, AppSettings::drop_old_secrets).await?;
    print(&format!("app {id} has one secret, the newest: {} older dropped", app.dropped))
}

async fn rotate(store: &AppStore, id: &str, secret: &Secret) -> Result<(), CliError> {
    let app = change(store, id, |app| app.add_secret(secret)).await?;
    print(&format!(
        "app {id} has a new secret, and {} older that go on working. When its backend has the new one:\n\
         fanfare app rotate {id} --drop-old\n",
        app.secrets().len() - 1
    ))?;
    print(&format!("PUSHER_APP_SECRET={}", app.text("secret")))
}

async fn remove(store: &AppStore, id: &str) -> Result<(), CliError> {
    for _ in 0..ATTEMPTS_MAX {
        let before = find(store, id).await?;
        let key = AppSettings::parse(&before).map(|app| app.text("key").to_owned()).unwrap_or_default();
        match store.remove(id, &before, &key).await {
            Err(ChangeError::Changed) => {}
            done => return done.map_err(|error| failed(id, error)),
        }
    }
    Err(failed(id, ChangeError::Changed))
}

/// Applies `change` to the stored app and returns the result.
async fn change(
    store: &AppStore,
    id: &str,
    change: impl Fn(&mut AppSettings),
) -> Result<AppSettings, CliError> {
    for _ in 0..ATTEMPTS_MAX {
        let before = find(store, id).await?;
        let not_understood = || CliError::NotUnderstood { id: id.to_owned() };
        let mut app = AppSettings::parse(&before).ok_or_else(not_understood)?;
        change(&mut app);
        app.check()?;
        match store.replace(id, &before, &app.to_string()).await {
            Err(ChangeError::Changed) => {}
            done => return done.map(|()| app).map_err(|error| failed(id, error)),
        }
    }
    Err(failed(id, ChangeError::Changed))
}

async fn find(store: &AppStore, id: &str) -> Result<String, CliError> {
    match store.find(id).await.map_err(unread)? {
        StoredApp::Settings(text) => Ok(text),
        StoredApp::Removed | StoredApp::Nothing => Err(CliError::NoSuchApp { id: id.to_owned() }),
    }
}

fn failed(id: &str, error: ChangeError) -> CliError {
    let id = id.to_owned();
    match error {
        ChangeError::Backend(BackendError::OutcomeUnknown) => CliError::AppUnknown { id },
        ChangeError::Backend(error) => unread(error),
        error => CliError::App { id, error },
    }
}

fn unread(error: BackendError) -> CliError {
    match error {
        BackendError::Unavailable => CliError::RedisAway,
        error => CliError::Redis(error),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    Ok(output::line(text)?)
}

fn random_hex(bytes: usize) -> String {
    let random: Vec<u8> = std::iter::repeat_with(rand::random::<u8>).take(bytes).collect();
    hex::encode(random)
}
