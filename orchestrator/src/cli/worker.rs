//! `onramp worker`: the hands alone. The queue is asked over HTTP, so the machine that faces the internet needs no engine,
//! and the machine with the engine faces nobody.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tasks::{Code, Failure, WorkQueue, WorkerName};
use tokio_util::sync::CancellationToken;
use workers::remote::{RemoteOptions, RemoteQueue};

use super::{Setting, serve::wait_for_signal};
use crate::{config::Config, crew::Crew, now, wiring};

/// How long the way out may take once the task at hand is to be given back.
const WAY_OUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "It needs what attempts need: the token of the forge, the keys of models, and a Docker engine or \
                        the kernel's namespaces. Of the server it needs the address and ONRAMP_WORKER_TOKEN."
)]
pub(super) struct WorkerArgs {
    /// Where `onramp serve` answers, such as https://onramp.example.org
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The name of this worker in logs [default: the machine's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Tasks that run at the same time
    #[arg(long, value_name = "N")]
    places: Option<usize>,
}

pub(super) async fn worker(setting: Setting, args: WorkerArgs) -> Result<u8, Failure> {
    let Setting { mut config, surroundings, .. } = setting;
    // A configuration that is shared with the server has 0 for the server's sake.
    config.worker.n_workers = args.places.unwrap_or(config.worker.n_workers).max(1);
    config.worker.server = args.server.unwrap_or(config.worker.server);
    if config.worker.server.is_empty() {
        return Err(Failure::new(Code::Usage, "A worker has to know its server, and none is named")
            .next("Say --server URL, or set [worker] server, to where `onramp serve` answers."));
    }
    let token = config.worker.token.require("worker.token")?;
    let name = name(args.name.as_deref().unwrap_or(&config.worker.name), &surroundings.host)?;
    // Apart from the data of a server on the same machine: these are brought over there.
    config.data_dir = config.data_dir()?.join("worker");
    let _lock = take(&config)?;
    let artifacts = config.data_dir.join("artifacts");
    let options = RemoteOptions { server: config.worker.server.clone(), token, artifacts, clock: now };
    let queue = Arc::new(RemoteQueue::new(options)?);
    let crew = Crew::ready(&config, &surroundings, wiring::github(&config)?, None).await?;

    eprintln!("{}", crew.why());
    tokio::select! {
        welcome = queue.greet() => welcome?,
        signal = wait_for_signal() => return signal.map(|()| 0),
    }
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let workers = crew.workers(&config, name.as_str(), &(queue.clone() as Arc<dyn WorkQueue>), None)?;
    crew.start(workers, &drain, &stop);
    let (places, server) = (config.worker.n_workers, &config.worker.server);
    eprintln!("{name} works for {server}, {places} at a time; Ctrl-C ends after the tasks at hand, twice at once");

    let ended = until_told(&queue, &drain, &stop, &crew).await;
    stop.cancel();
    let closed = tokio::time::timeout(WAY_OUT, async { tokio::join!(queue.close(), crew.close()) }).await;
    if closed.is_err() {
        tracing::warn!("not everything could be put away; the next start does it");
    }
    ended.map(|()| 0)
}

/// Until a signal, or until the server will not have this worker any more.
async fn until_told(
    queue: &RemoteQueue,
    drain: &CancellationToken,
    stop: &CancellationToken,
    crew: &Crew,
) -> Result<(), Failure> {
    let refused = tokio::select! {
        signal = wait_for_signal() => {
            signal?;
            None
        }
        failure = queue.refused() => Some(failure),
    };
    drain.cancel();
    if refused.is_none() {
        eprintln!("draining: no new task is taken; once more to give back what runs");
        tokio::select! {
            () = crew.ended() => return Ok(()),
            signal = wait_for_signal() => signal?,
        }
    }
    stop.cancel();
    if tokio::time::timeout(WAY_OUT, crew.ended()).await.is_err() {
        tracing::warn!("a task could not be given back; its lease runs out by itself");
    }
    refused.map_or(Ok(()), Err)
}

/// The configured name, else the machine's, as far as the name of a worker may have its characters.
fn name(configured: &str, host: &str) -> Result<WorkerName, Failure> {
    // Room for the number of the place and for the name of each question.
    const MAX_CHARS: usize = 60;
    if !configured.is_empty() {
        let name = configured.parse::<WorkerName>().ok().filter(|name| name.as_str().len() <= MAX_CHARS);
        return name.ok_or_else(|| {
            let message = format!("{configured:?} cannot be the name of a worker");
            Failure::new(Code::BadConfig, message)
                .next(format!("Use at most {MAX_CHARS} letters, digits, dots, hyphens and underscores."))
        });
    }
    let plain = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let plain: String = plain.take(MAX_CHARS).collect();
    if plain.is_empty() { "worker" } else { &plain }.parse().map_err(Failure::internal)
}

/// One worker process for each data directory: its mirrors and bases have one keeper.
fn take(config: &Config) -> Result<File, Failure> {
    let dir: &Path = &config.data_dir;
    let unusable = |error: std::io::Error| {
        Failure::new(Code::StoreUnavailable, format!("The directory {} cannot be used: {error}", dir.display()))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let file = File::create(dir.join("LOCK")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("Another worker uses the data directory {}", dir.display());
            Err(Failure::new(Code::StoreLocked, message))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_called_after_its_machine_unless_it_has_a_name_of_its_own() {
        assert_eq!(name("gpu-box", "web").unwrap().as_str(), "gpu-box");
        assert_eq!(name("", "web.example.org").unwrap().as_str(), "web.example.org");
        assert_eq!(name("", "é!").unwrap().as_str(), "worker");
        assert_eq!(name("two words", "web").unwrap_err().code, Code::BadConfig);
        assert_eq!(name(&"x".repeat(61), "web").unwrap_err().code, Code::BadConfig);
    }

    #[test]
    fn a_second_worker_on_the_same_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().join("worker"), ..Config::default() };
        let held = take(&config).unwrap();
        assert_eq!(take(&config).unwrap_err().code, Code::StoreLocked);
        drop(held);
        take(&config).unwrap();
    }
}
