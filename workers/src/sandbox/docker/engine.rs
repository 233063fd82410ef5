//! The conversation with the engine itself: where it is, who it is, how long it may take.

use std::{future::Future, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error, models::SystemInfo};
use futures_util::{Stream, StreamExt};
use tasks::{Code, Failure, Limit};
use tokio::time::timeout;

/// Where an engine is when nobody says otherwise.
pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long the engine may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the longest call of all may take: building an image.
pub(super) const BUILD_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its version, such as `28.3.1`.
    pub version: String,
    /// The newest version of its interface.
    pub api_version: String,
    /// Its operating system and architecture, such as `linux/amd64`.
    pub platform: String,
}

/// Asks the engine at `host` (or the usual place) who it is.
///
/// # Errors
/// [`Code::EngineUnreachable`] when none answers.
pub async fn probe(host: Option<&str>) -> Result<EngineInfo, Failure> {
    let host = host.unwrap_or(DEFAULT_HOST);
    let engine = open(host).await?;
    let version = call(engine.version()).await.map_err(|error| unreachable(host, &error))?;
    let part = |part: Option<String>| part.unwrap_or_else(|| "unknown".into());
    Ok(EngineInfo {
        version: part(version.version),
        api_version: part(version.api_version),
        platform: format!("{}/{}", part(version.os), part(version.arch)),
    })
}

/// A client that speaks the engine's version of the interface.
pub(super) async fn open(host: &str) -> Result<Docker, Failure> {
    let seconds = BUILD_TIMEOUT.as_secs(); // ours are tighter, per call
    let client = match host.split_once("://") {
        Some(("unix", _)) => Docker::connect_with_unix(host, seconds, API_DEFAULT_VERSION),
        Some(("tcp" | "http", _)) => Docker::connect_with_http(host, seconds, API_DEFAULT_VERSION),
        _ => {
            return Err(Failure::new(
                Code::EngineUnreachable,
                format!("`{host}` is not the address of a Docker engine"),
            )
            .next("Set DOCKER_HOST to unix:///path/to/docker.sock or tcp://host:port, or unset it."));
        }
    };
    let client = client.map_err(|error| unreachable(host, &Trouble::Engine(error)))?;
    call(client.negotiate_version()).await.map_err(|error| unreachable(host, &error))
}

/// Whether the engine puts a filter of system calls around its containers. Our guest installs its own one inside, but an
/// engine without any has been told to leave walls out, or its kernel has none to give.
pub(super) fn filters_calls(about: &SystemInfo) -> Result<(), Failure> {
    let options = about.security_options.iter().flatten();
    let mut seccomp = options.filter(|option| option.split(',').any(|part| part == "name=seccomp"));
    let refused = |how: &str| {
        Failure::new(Code::WeakIsolation, format!("The Docker engine {how} (seccomp), so no sandbox is started on it"))
    };
    match seccomp.next() {
        None => Err(refused("does not filter system calls")
            .next("Use an engine and a kernel with seccomp: `docker info` must list it under Security Options.")),
        Some(option) if option.split(',').any(|part| part == "profile=unconfined") => Err(refused(
            "was told not to filter system calls",
        )
        .next("Take `seccomp-profile: unconfined` out of the engine's daemon.json or command line, and restart it.")),
        Some(_) => Ok(()),
    }
}

/// Whether the engine limits its containers. One without the control groups for it (rootless on the first generation)
/// says so, and then starts containers without limits and without an error.
pub(super) fn limits_enough(about: &SystemInfo) -> Result<(), Failure> {
    let lacks = |has: Option<bool>| has == Some(false);
    let lacking: Vec<&str> = [
        (lacks(about.memory_limit), Limit::Memory),
        (lacks(about.pids_limit), Limit::Pids),
        (lacks(about.cpu_cfs_quota) || lacks(about.cpu_cfs_period), Limit::Cpu),
    ]
    .into_iter()
    .filter_map(|(lacking, limit)| lacking.then_some(limit.as_str()))
    .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let message = format!("The Docker engine cannot limit {} of its containers", lacking.join(" and "));
    Err(Failure::new(Code::WeakIsolation, message).next(
        "Give the engine control groups of the second generation with memory, pids and cpu handed down to it; `docker info` \
         warns of each that it lacks.",
    ))
}

pub(super) fn unreachable(host: &str, error: &Trouble) -> Failure {
    Failure::new(Code::EngineUnreachable, format!("The Docker engine at {host} does not answer"))
        .detail(error.to_string())
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Engine(Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    Slow(Duration),
}

impl Trouble {
    /// The engine's own words, when it answered.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Engine(Error::DockerResponseServerError { status_code, .. }) => Some(*status_code),
            Self::Engine(_) | Self::Slow(_) => None,
        }
    }

    /// Nobody answered at all.
    pub(super) fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Engine(
                Error::IOError { .. }
                    | Error::HyperResponseError { .. }
                    | Error::HyperLegacyError { .. }
                    | Error::SocketNotFoundError(_)
            )
        )
    }
}

pub(super) async fn call<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    call_within(CALL_TIMEOUT, future).await
}

pub(super) async fn call_within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Trouble> {
    match timeout(limit, future).await {
        Ok(result) => result.map_err(Trouble::Engine),
        Err(_) => Err(Trouble::Slow(limit)),
    }
}

/// Reads the steps of a long call to its end. The error is the engine's own text.
pub(super) async fn follow<T>(
    limit: Duration,
    steps: impl Stream<Item = Result<T, Error>>,
    mut error_in: impl FnMut(T) -> Option<String>,
) -> Result<(), String> {
    let all = async {
        let mut steps = std::pin::pin!(steps);
        while let Some(step) = steps.next().await {
            if let Some(error) = error_in(step.map_err(|error| error.to_string())?) {
                return Err(error);
            }
        }
        Ok(())
    };
    timeout(limit, all).await.unwrap_or_else(|_| Err(format!("not done after {} minutes", limit.as_secs() / 60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(options: &[&str]) -> String {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let about = SystemInfo { security_options: Some(options), ..SystemInfo::default() };
        match filters_calls(&about) {
            Ok(()) => "fine".to_owned(),
            Err(failure) => format!("{} {}. {}", failure.code, failure.message, failure.next_step),
        }
    }

    #[test]
    fn an_engine_that_starts_containers_without_limits_is_refused() {
        let whole = SystemInfo {
            memory_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            cpu_cfs_period: Some(true),
            ..SystemInfo::default()
        };
        assert!(limits_enough(&whole).is_ok());
        let rootless = SystemInfo { memory_limit: Some(false), cpu_cfs_quota: Some(false), ..whole };
        let failure = limits_enough(&rootless).unwrap_err();
        assert_eq!(failure.code, Code::WeakIsolation);
        assert_eq!(failure.message, "The Docker engine cannot limit memory and cpu of its containers");
    }

    #[test]
    fn an_engine_without_a_filter_of_system_calls_is_refused() {
        assert_eq!(judged(&["name=apparmor", "name=seccomp,profile=default"]), "fine");
        assert_eq!(judged(&["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]), "fine");
        assert_eq!(judged(&["name=seccomp,profile=/etc/docker/mine.json"]), "fine");
        insta::assert_snapshot!(judged(&["name=apparmor"]), @"E019 The Docker engine does not filter system calls (seccomp), so no sandbox is started on it. Use an engine and a kernel with seccomp: `docker info` must list it under Security Options.");
        insta::assert_snapshot!(judged(&["name=seccomp,profile=unconfined"]), @"E019 The Docker engine was told not to filter system calls (seccomp), so no sandbox is started on it. Take `seccomp-profile: unconfined` out of the engine's daemon.json or command line, and restart it.");
        assert!(filters_calls(&SystemInfo::default()).is_err(), "an engine that says nothing");
    }
}
