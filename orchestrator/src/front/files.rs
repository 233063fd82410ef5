//! What attempts left behind: the list, one file, and the diff.

use std::{
    io,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{Code, Failure, Task, TaskId};
use workers::remote::protocol::is_artifact_name;

use super::Front;

/// The verified or last diff of an attempt.
pub const DIFF: &str = "diff.patch";

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// The attempt that left it.
    pub attempt: u32,
    /// Its name.
    pub name: String,
    /// Its length, in bytes. It may still grow while the attempt runs.
    pub bytes: u64,
}

/// All of a task, by attempt and name.
pub(super) async fn list(root: &Path, task: TaskId) -> Result<Vec<Artifact>, Failure> {
    let dir = root.join(task.to_string());
    let read = move || match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        attempts => in_attempts(attempts?),
    };
    let found = tokio::task::spawn_blocking(read).await.map_err(Failure::internal)?;
    found.map_err(|error| unreadable(&error))
}

fn in_attempts(attempts: std::fs::ReadDir) -> io::Result<Vec<Artifact>> {
    let mut found = Vec::new();
    for folder in attempts {
        let folder = folder?;
        let Some(attempt) = folder.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for file in std::fs::read_dir(folder.path())? {
            let file = file?;
            let (name, facts) = (file.file_name().to_string_lossy().into_owned(), file.metadata()?);
            if facts.is_file() && is_artifact_name(&name) {
                found.push(Artifact { attempt, name, bytes: facts.len() });
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Front {
    /// The place of one artifact. Its name is one of ours, whatever was asked for.
    ///
    /// # Errors
    /// E095 when there is none.
    pub fn artifact(&self, task: TaskId, attempt: u32, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.artifacts.join(task.to_string()).join(attempt.to_string()).join(name);
        if is_artifact_name(name) && path.is_file() {
            return Ok(path);
        }
        let name: String = name.chars().take(64).collect();
        Err(Failure::new(Code::NoArtifact, format!("Attempt {attempt} of task {} left no {name:?}", task.short())))
    }

    /// The diff of the last attempt that got so far, and which that was.
    ///
    /// # Errors
    /// E095 when none did.
    pub async fn diff(&self, task: &Task) -> Result<(u32, Vec<u8>), Failure> {
        for attempt in (1..=task.attempt).rev() {
            if let Ok(path) = self.artifact(task.id, attempt, DIFF) {
                return Ok((attempt, tokio::fs::read(path).await.map_err(|error| unreadable(&error))?));
            }
        }
        Err(Failure::new(Code::NoArtifact, format!("Task {} has no diff yet", task.id.short())))
    }
}

pub(super) fn unreadable(error: &io::Error) -> Failure {
    Failure::new(Code::StoreUnavailable, format!("The artifacts of the task cannot be read: {error}"))
}
