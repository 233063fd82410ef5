//! The files of one task: prompt, transcript, outputs of checks, diff, evidence. Kept whatever happens.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

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

    /// How much all of them take, in bytes. What cannot be looked at is not there.
    pub fn size_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
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

    /// Opens one artifact to be written piece by piece; bytes beyond `max_bytes` are left out, and the file says so.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn log(&self, name: &str, max_bytes: u64) -> std::io::Result<Log> {
        let path = self.path(name);
        let file = BufWriter::new(File::create(&path)?);
        Ok(Log { path, file: Some(file), left: max_bytes, n_omitted: 0 })
    }
}

/// An artifact that grows while something runs. Never fails in between: what an output is worth does not depend on
/// whether all of it could be kept.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    left: u64,
    n_omitted: u64,
}

impl Log {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= room as u64;
        self.n_omitted += (bytes.len() - room) as u64;
        if room > 0
            && let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(&bytes[..room]))
        {
            tracing::warn!(path = %self.path.display(), %error, "an artifact is cut short");
            self.file = None;
        }
    }

    /// Brings what was added so far to the file, so that a person who looks now sees it.
    pub fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(std::io::Write::flush) {
            tracing::warn!(path = %self.path.display(), %error, "an artifact is cut short");
            self.file = None;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.n_omitted > 0
            && let Some(file) = &mut self.file
        {
            // Best effort: a missing last line changes nothing for whoever reads the rest.
            let _ = writeln!(file, "\n[{} bytes left out]", self.n_omitted);
        }
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_the_start_and_says_what_it_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path(), TaskId::from_bytes([1; 16]), 1).unwrap();
        let mut log = artifacts.log("x.log", 5).unwrap();
        log.push(b"abc");
        log.flush();
        assert_eq!(std::fs::read(artifacts.path("x.log")).unwrap(), b"abc");
        log.push(b"defg");
        log.push(b"h");
        drop(log);
        assert_eq!(std::fs::read_to_string(artifacts.path("x.log")).unwrap(), "abcde\n[3 bytes left out]\n");
    }
}
