//! Real repositories made with the git program, for the tests of this room.

use std::{
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Base, Mirror, Remote};
use tasks::Failure;

/// A checkout in a directory of its own, and room for mirrors beside it.
pub(crate) struct Scratch {
    pub(crate) dir: tempfile::TempDir,
}

impl Scratch {
    /// A repository without a commit.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        let scratch = Self { dir };
        scratch.git(&["init", "-q", "-b", "main"]);
        scratch
    }

    /// A repository with these files in one commit on `main`.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let scratch = Self::empty();
        for (path, content) in files {
            scratch.write(path, content.as_bytes());
        }
        scratch.commit("First");
        scratch
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn make_executable(&self, path: impl AsRef<Path>) {
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Commits everything, ignored files too, and returns the id.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.path(), args)
    }

    pub(crate) fn remote(&self) -> Remote {
        Remote { url: self.path().to_str().unwrap().to_owned(), token: None }
    }

    pub(crate) async fn checkout(&self, base: Option<&str>) -> Result<(Mirror, Base), Failure> {
        Mirror::checkout(&self.dir.path().join("mirrors"), &"acme/web".parse().unwrap(), &self.remote(), base).await
    }
}

/// Runs git and returns what it wrote, without the last line end.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(git_with(dir, args, b"")).unwrap().trim_end_matches('\n').to_owned()
}

/// Runs git with a standard input.
pub(crate) fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let (code, output, error) = try_git(dir, args, input);
    assert_eq!(code, Some(0), "git {args:?}: {error}");
    output
}

/// Runs git: exit code, standard output, standard error.
pub(crate) fn try_git(dir: &Path, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
        .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Git may end before it read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A path of raw bytes.
pub(crate) fn raw(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}
