//! Entry point: parses flags and environment, then runs the server or one of the
//! commands of [`fanfare::cli`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use fanfare::cli::{Banner, Cli, Serve, StopSignals, ignore_signals};
use fanfare::config::{self, Config, Environment, Loaded};
use fanfare::reload::Reloader;
use fanfare::server::Reload;
use fanfare::{logging, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Returns memory to the system after a burst (docs/decisions/0007).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = match Environment::from_process() {
        Ok(environment) => environment,
        Err(error) => return fail(&error),
    };
    match cli.command {
        Some(command) => command.run(&environment),
        None => serve(&cli.serve, &environment),
    }
}

fn serve(flags: &Serve, environment: &Environment) -> ExitCode {
    let Loaded { settings, config, warnings } = config::load(&flags.flags(), environment);
    if flags.print_config {
        print(&settings.to_string());
    }
    let config = match config {
        Ok(config) => config,
        // The settings are valid and can be printed; only an app is missing.
        Err(problems) if problems.only_app_missing() && flags.print_config && !flags.check => {
            print_error(&problems);
            return ExitCode::SUCCESS;
        }
        Err(problems) => return fail(&problems),
    };
    if flags.check || flags.print_config {
        warnings.iter().for_each(|warning| print_error(&format!("warning: {warning}")));
        if flags.check {
            print("the configuration is valid\n");
        }
        return ExitCode::SUCCESS;
    }
    let log = logging::init(&config.log, config.log_format);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    // One: the reloader waits until the server has applied a reload.
    let (server, reloads) = mpsc::channel(1);
    let sources = (flags.flags(), environment.clone());
    let reloader = Reloader::new(sources, &settings, &config, log, server);
    // In a task: connections accepted on a worker start there, without waking another thread.
    runtime
        .block_on(async { tokio::spawn(run(config, reloader, reloads)).await.unwrap_or(ExitCode::FAILURE) })
}

/// The first signal to stop starts a drain; a second one ends the process without waiting for it.
async fn run(config: Config, reloader: Reloader, reloads: mpsc::Receiver<Reload>) -> ExitCode {
    let handlers = || Ok::<_, std::io::Error>((StopSignals::new()?, signal(SignalKind::hangup())?));
    let (mut signals, mut hangups) = match ignore_signals().and_then(|()| handlers()) {
        Ok(handlers) => handlers,
        Err(error) => return fail(&error),
    };
    let program = std::env::args().next().unwrap_or_else(|| "fanfare".to_owned());
    let banner = config.dev.then(|| Banner::new(&program, &config));
    let ready = |address| {
        if let Some(banner) = banner {
            print(&banner.text(address));
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let second_signal = async {
        tokio::select! {
            () = signals.next() => {}
            () = reloader.run(&mut hangups) => {}
        }
        // A reload during the drain would have no effect.
        let _ = stop.send(());
        signals.next().await;
    };
    tokio::select! {
        outcome = server::run(config, ready, reloads, shutdown) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        () = second_signal => fail(&"stopped by a second signal, without draining"),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    print_error(error);
    ExitCode::FAILURE
}

/// Prints to stderr and not to the log, which may not be initialised yet. `eprintln!`
/// would panic when stderr is closed.
fn print_error(message: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "fanfare: {message}");
}

fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
