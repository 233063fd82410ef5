//! The files of one task: prompt, transcript, outputs of checks, diff, evidence. Kept whatever happens.

use std::path::{Path, PathBuf};

use tasks::TaskId;

/// The directory of one attempt, `<root>/<task id>/<attempt>`.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Opens the directory of an attempt, made when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: &Path, task: TaskId, attempt: u32) -> std::io::Result<Self> {
        let dir = root.join(task.to_string()).join(attempt.to_string());
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one artifact. `name` is one of ours, never text from outside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes one artifact whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}
