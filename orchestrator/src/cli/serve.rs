//! `onramp serve`: the door, the queue and the hands in one program, until a signal says otherwise.

use clap::Args;
use tasks::{Code, Failure, RepoName};
use tokio::signal::unix::{SignalKind, signal};

use super::Setting;
use crate::{Ingress, Parts, start};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Tasks that run in this process at the same time; 0: all are left to `onramp worker` elsewhere
    #[arg(long, value_name = "N")]
    places: Option<usize>,
    /// A repository to act for, besides those of the configuration; may be given more than once
    #[arg(long = "repo", value_name = "OWNER/NAME")]
    repos: Vec<RepoName>,
}

pub(super) async fn serve(setting: Setting, args: ServeArgs) -> Result<u8, Failure> {
    let mut config = setting.config;
    config.worker.n_workers = args.places.unwrap_or(config.worker.n_workers);
    config.github.repositories.extend(args.repos.iter().map(RepoName::to_string));
    let has_door = config.worker.token.value().is_some();
    let (label, every) = (config.github.label.clone(), config.github.poll_interval.0);
    let running = start(config, Parts { surroundings: Some(setting.surroundings), ..Parts::default() }).await?;
    let address = running.addr();
    match running.ingress() {
        Ingress::IsTold => eprintln!("listening on http://{address}/hooks/github"),
        Ingress::Asks => {
            eprintln!("listening on http://{address}; GitHub is asked for news every {} s", every.as_secs());
        }
    }
    eprintln!("{}", running.sandbox());
    if has_door {
        eprintln!("workers elsewhere: onramp worker --server http://{address}");
    }
    eprintln!(
        "an issue that gets the label `{label}` becomes a task; Ctrl-C ends after the tasks at hand, twice at once"
    );

    wait_for_signal().await?;
    eprintln!("draining: no new task is started; once more to give back what runs");
    tokio::select! {
        () = running.drain() => {}
        signal = wait_for_signal() => {
            signal?;
            running.stop().await;
        }
    }
    Ok(0)
}

/// The next SIGTERM or SIGINT.
pub(super) async fn wait_for_signal() -> Result<(), Failure> {
    let unavailable = |error| Failure::new(Code::Internal, format!("Signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
