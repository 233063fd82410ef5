//! Brings the artifacts of an attempt to where the queue is: logs piece by piece while they grow, everything else whole
//! at the end.
//!
//! The folder of the attempt is what is brought over, so what a worker in another process leaves behind is what one beside
//! the queue leaves behind, and no step has to know where it runs.

use std::{
    collections::{HashMap, HashSet},
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tasks::Lease;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{
    client::{Client, Trouble},
    protocol::{MAX_PIECE_BYTES, is_artifact_name},
};

/// What only grows is called so.
const LOG: &str = ".log";

/// The artifacts of one attempt, on their way.
pub(super) struct Upload {
    client: Arc<Client>,
    lease: Lease,
    dir: PathBuf,
    logs: HashMap<String, Sent>,
    /// Whole artifacts that were taken, or refused for good.
    settled: HashSet<(String, String)>,
}

/// What of a log is there already.
#[derive(Default)]
struct Sent {
    length: u64,
    hash: Sha256,
    /// It was written anew here, or is not what it should be there: it goes over whole at the end.
    broken: bool,
}

impl Upload {
    pub(super) fn new(client: Arc<Client>, lease: Lease, dir: PathBuf) -> Self {
        Self { client, lease, dir, logs: HashMap::new(), settled: HashSet::new() }
    }

    /// Brings over what the logs grew by.
    pub(super) async fn grow(&mut self) -> Result<(), Trouble> {
        for name in self.names().await {
            if name.ends_with(LOG) {
                self.grow_log(&name).await?;
            }
        }
        Ok(())
    }

    /// Brings over everything that is not there yet. May be called again after [`Trouble::Away`].
    pub(super) async fn finish(&mut self) -> Result<(), Trouble> {
        self.grow().await?;
        for name in self.names().await {
            let path = self.dir.join(&name);
            let read = tokio::task::spawn_blocking(move || fingerprint(&path)).await;
            let (length, hash) = match read.map_err(io::Error::other).flatten() {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(name, %error, "an artifact cannot be read and stays behind");
                    continue;
                }
            };
            // Of an empty log nothing was sent yet, not even that it is there.
            let there = self.logs.get(&name).is_some_and(|sent| {
                let same = sent.length == length && hex::encode(sent.hash.clone().finalize()) == hash;
                same && !sent.broken && length > 0
            });
            if there || self.settled.contains(&(name.clone(), hash.clone())) {
                continue;
            }
            match self.client.put(&self.lease, &name, &self.dir.join(&name), length, &hash).await {
                Ok(()) => {}
                Err(Trouble::NotTaken(why)) => tracing::warn!(name, why, "an artifact is not taken and stays behind"),
                Err(trouble) => return Err(trouble),
            }
            self.settled.insert((name, hash));
        }
        Ok(())
    }

    async fn grow_log(&mut self, name: &str) -> Result<(), Trouble> {
        let sent = self.logs.entry(name.to_owned()).or_default();
        while !sent.broken {
            let piece = match read_piece(&self.dir.join(name), sent.length).await {
                Ok(Some(piece)) if piece.is_empty() => return Ok(()),
                Ok(Some(piece)) => piece,
                // It is shorter than it was.
                Ok(None) => {
                    sent.broken = true;
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(name, %error, "a log cannot be read now");
                    return Ok(());
                }
            };
            let (wanted, hash) = (sent.length + piece.len() as u64, hex::encode(Sha256::digest(&piece)));
            let mut whole = sent.hash.clone();
            whole.update(&piece);
            match self.client.append(&self.lease, name, sent.length, piece, &hash).await {
                Ok(length) if length == wanted => (sent.length, sent.hash) = (wanted, whole),
                Ok(_) | Err(Trouble::NotTaken(_)) => sent.broken = true,
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    /// The artifacts that are there now.
    async fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let Ok(mut entries) = tokio::fs::read_dir(&self.dir).await else { return names };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let is_file = entry.file_type().await.is_ok_and(|kind| kind.is_file());
            if let Ok(name) = entry.file_name().into_string()
                && is_file
                && is_artifact_name(&name)
            {
                names.push(name);
            }
        }
        names.sort();
        names
    }
}

/// What follows after `at`, some of it; `None`: the file does not even reach there.
async fn read_piece(path: &Path, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = tokio::fs::File::open(path).await?;
    if file.metadata().await?.len() < at {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at)).await?;
    let mut piece = Vec::new();
    file.take(MAX_PIECE_BYTES as u64).read_to_end(&mut piece).await?;
    Ok(Some(piece))
}

/// Length and SHA-256 of a file.
fn fingerprint(path: &Path) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let length = io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok((length, hex::encode(hash.finalize())))
}
