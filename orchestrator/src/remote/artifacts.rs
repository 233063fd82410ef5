//! The artifacts of workers in other processes, put where those of a worker beside the queue lie.
//!
//! Only under a live lease, and only into the folder of its own attempt. A whole artifact appears at once or not at all: it
//! is written aside, checked against its SHA-256, and the lease is looked at again before it takes its place.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes, to_bytes},
    extract::{Path as InPath, Query, State},
    http::{HeaderMap, header::CONTENT_LENGTH},
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tasks::{Intake as _, Lease, QueueError, TaskId, WorkerName};
use tempfile::NamedTempFile;
use workers::{
    artifacts::Artifacts,
    remote::protocol::{
        Grown, MAX_ARTIFACT_BYTES, MAX_ATTEMPT_BYTES, MAX_PIECE_BYTES, SHA256_HEADER, WORKER_HEADER, is_artifact_name,
    },
};

use super::{Answer, Desk};

/// A worker that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    task: TaskId,
    attempt: u32,
    name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Place {
    at: u64,
}

/// Takes a whole artifact.
pub(super) async fn put(
    State(desk): State<Desk>,
    InPath(which): InPath<Which>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<()>, Answer> {
    let (lease, sha256) = who(&which, &headers)?;
    let dir = desk.folder(&lease).await?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let room = MAX_ARTIFACT_BYTES.min(MAX_ATTEMPT_BYTES.saturating_sub(size_of(&dir).await?));
    if announced.is_some_and(|length| length > room) {
        return Err(too_large());
    }

    let within = dir.clone();
    let mut aside = blocking(move || NamedTempFile::with_prefix_in(".arriving-", within)).await?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut pieces = body.into_data_stream();
    loop {
        let piece = match tokio::time::timeout(SILENCE, pieces.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(Answer::NotNow("the artifact did not arrive whole".to_owned())),
        };
        length += piece.len() as u64;
        if length > room {
            return Err(too_large());
        }
        hash.update(&piece);
        aside = blocking(move || aside.write_all(&piece).map(|()| aside)).await?;
    }
    if hex::encode(hash.finalize()) != sha256 {
        return Err(Answer::NotNow("the artifact was changed on its way".to_owned()));
    }
    let aside = blocking(move || aside.as_file().sync_data().map(|()| aside)).await?;
    desk.demand(&lease).await?;
    blocking(move || aside.persist(dir.join(which.name)).map_err(|error| error.error)).await?;
    Ok(Json(()))
}

/// Takes a piece of a log. One that is there already is taken for the same piece when it is the same bytes.
pub(super) async fn append(
    State(desk): State<Desk>,
    InPath(which): InPath<Which>,
    Query(Place { at }): Query<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Grown>, Answer> {
    let (lease, sha256) = who(&which, &headers)?;
    let dir = desk.folder(&lease).await?;
    let piece = tokio::time::timeout(SILENCE, to_bytes(body, MAX_PIECE_BYTES)).await;
    let Ok(Ok(piece)) = piece else { return Err(Answer::NotNow("the piece did not arrive whole".to_owned())) };
    if hex::encode(Sha256::digest(&piece)) != sha256 {
        return Err(Answer::NotNow("the piece was changed on its way".to_owned()));
    }
    let end = at.saturating_add(piece.len() as u64);
    if end > MAX_ARTIFACT_BYTES || size_of(&dir).await? + piece.len() as u64 > MAX_ATTEMPT_BYTES {
        return Err(too_large());
    }
    let _one_at_a_time = desk.0.appending.lock().await;
    desk.demand(&lease).await?;
    let length = blocking(move || grow(&dir.join(which.name), at, &piece)).await?;
    match length {
        Some(length) => Ok(Json(Grown { length })),
        None => Err(Answer::Elsewhere(format!("the log does not end at {at}"))),
    }
}

/// Adds a piece at the end, or finds it there. `None`: it does not fit.
fn grow(path: &Path, at: u64, piece: &Bytes) -> io::Result<Option<u64>> {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let (length, end) = (file.metadata()?.len(), at + piece.len() as u64);
    if length == at {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(piece)?;
        return Ok(Some(end));
    }
    if length != end {
        return Ok(None);
    }
    let mut there = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.read_to_end(&mut there)?;
    Ok((there == piece.as_ref()).then_some(end))
}

impl Desk {
    /// That the lease is alive now.
    async fn demand(&self, lease: &Lease) -> Result<(), Answer> {
        let stale = || QueueError::StaleLease { task: lease.task, attempt: lease.attempt };
        let task = self.0.queue.get(lease.task).await?.ok_or_else(stale)?;
        let alive = task.state.lease().is_some_and(|current| {
            (&current.worker, current.attempt) == (&lease.worker, lease.attempt)
                && current.expires_at > (self.0.clock)()
        });
        if alive { Ok(()) } else { Err(stale().into()) }
    }

    /// The folder of an attempt, for who holds its lease.
    async fn folder(&self, lease: &Lease) -> Result<PathBuf, Answer> {
        self.demand(lease).await?;
        let (root, task, attempt) = (self.0.artifacts.clone(), lease.task, lease.attempt);
        blocking(move || Artifacts::open(&root, task, attempt).map(|artifacts| artifacts.dir().to_owned())).await
    }
}

/// The lease that a request speaks of, and the digest of its bytes.
fn who(which: &Which, headers: &HeaderMap) -> Result<(Lease, String), Answer> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let worker = header(WORKER_HEADER).and_then(|name| name.parse::<WorkerName>().ok()).ok_or(Answer::Version)?;
    let sha256 = header(SHA256_HEADER).ok_or(Answer::Version)?.to_owned();
    if !is_artifact_name(&which.name) {
        return Err(Answer::TooLarge("an artifact cannot be called so".to_owned()));
    }
    // When it ends is for the queue to say.
    let lease = Lease { task: which.task, worker, attempt: which.attempt, expires_at: tasks::Timestamp::MIN_UTC };
    Ok((lease, sha256))
}

/// What the artifacts of an attempt take.
async fn size_of(dir: &Path) -> Result<u64, Answer> {
    let dir = dir.to_owned();
    blocking(move || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<io::Result<u64>>()).await
}

fn too_large() -> Answer {
    let message =
        format!("an artifact has at most {MAX_ARTIFACT_BYTES} bytes, those of an attempt {MAX_ATTEMPT_BYTES}");
    Answer::TooLarge(message)
}

/// Disks are slow; the runtime does not wait for them.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Answer> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| {
        tracing::error!(%error, "an artifact of a worker cannot be kept");
        Answer::NoRoom(format!("the artifact cannot be kept: {error}"))
    })
}
