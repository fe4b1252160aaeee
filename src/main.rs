//! Flags and environment in, one call: the server, or one of the commands of
//! [`fanfare::cli`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use fanfare::cli::{Banner, Cli, Serve, StopSignals};
use fanfare::config::{self, Config, Environment, Loaded};
use fanfare::{logging, server};

/// Gives back what a burst has taken (docs/decisions/0007).
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
        // What was written can be shown, and is right as far as it goes.
        Err(problems) if problems.only_app_missing() && flags.print_config && !flags.check => {
            complain(&problems);
            return ExitCode::SUCCESS;
        }
        Err(problems) => return fail(&problems),
    };
    if flags.check || flags.print_config {
        warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
        if flags.check {
            print("the configuration is good\n");
        }
        return ExitCode::SUCCESS;
    }
    logging::init(&config.log, config.log_format);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    // As a task: what is accepted on a worker starts there, without waking another thread.
    runtime.block_on(async { tokio::spawn(run(config)).await.unwrap_or(ExitCode::FAILURE) })
}

/// The first signal drains; a second one is from somebody who will not wait.
async fn run(config: Config) -> ExitCode {
    let mut signals = match StopSignals::new() {
        Ok(signals) => signals,
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
    let impatience = async {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
    };
    tokio::select! {
        outcome = server::run(config, ready, shutdown) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        () = impatience => fail(&"stopped by a second signal, without draining"),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    complain(error);
    ExitCode::FAILURE
}

/// On stderr, and plainly: there may be no log yet. Not `eprintln!`, which
/// panics when nobody reads.
fn complain(message: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "fanfare: {message}");
}

fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
