//! Where a provider's key comes from, and how a new one takes the place of an old one without a restart.

use std::{
    fmt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};

/// A key out of a file or a command is looked at again after so long.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// After a refusal it is looked at again at once, but no oftener than this: a command may ask a vault.
const SPACING: Duration = Duration::from_secs(5);
/// The longest that a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The key of one provider. Never shown: its `Debug` names only where it comes from.
pub struct Key {
    source: Source,
    /// The key as it was read last, and when.
    read: tokio::sync::Mutex<Option<(SecretString, Instant)>>,
}

enum Source {
    Fixed(SecretString),
    File(PathBuf),
    Command(String),
}

impl Key {
    /// A key that stays as it is.
    pub fn fixed(key: impl Into<SecretString>) -> Self {
        Self::new(Source::Fixed(key.into()))
    }

    /// A key in a file, read again when it may have changed.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::File(path.into()))
    }

    /// The first line that a command line for `sh -c` prints, on this machine, run again when it may have changed.
    pub fn command(line: impl Into<String>) -> Self {
        Self::new(Source::Command(line.into()))
    }

    fn new(source: Source) -> Self {
        Self { source, read: tokio::sync::Mutex::new(None) }
    }

    /// The key as it is now.
    ///
    /// # Errors
    /// One sentence for the operator's log about the file or command. It never holds what either said.
    pub(in crate::egress) async fn current(&self) -> Result<SecretString, String> {
        self.not_older_than(FRESH).await
    }

    /// The key after a provider refused `refused`; `None`: there is no other one.
    ///
    /// # Errors
    /// As [`Key::current`].
    pub(super) async fn instead_of(&self, refused: &SecretString) -> Result<Option<SecretString>, String> {
        // Another request may have found the new one meanwhile.
        for max_age in [FRESH, SPACING] {
            let key = self.not_older_than(max_age).await?;
            if key.expose_secret() != refused.expose_secret() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    async fn not_older_than(&self, max_age: Duration) -> Result<SecretString, String> {
        if let Source::Fixed(key) = &self.source {
            return Ok(key.clone());
        }
        let mut read = self.read.lock().await;
        if let Some((key, at)) = read.as_ref()
            && at.elapsed() < max_age
        {
            return Ok(key.clone());
        }
        let key = self.source.read().await?;
        *read = Some((key.clone(), Instant::now()));
        Ok(key)
    }
}

impl Source {
    async fn read(&self) -> Result<SecretString, String> {
        let text = match self {
            Self::Fixed(key) => return Ok(key.clone()),
            Self::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| format!("the file {} cannot be read: {error}", path.display()))?,
            Self::Command(line) => output(line).await?,
        };
        let key = text.lines().next().unwrap_or_default().trim();
        match key.is_empty() {
            true => Err(format!("{self:?} gave nothing")),
            false => Ok(SecretString::from(key.to_owned())),
        }
    }
}

async fn output(line: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", line]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
    let output = ended.map_err(|_| format!("`{line}` took longer than {} s", COMMAND_TIMEOUT.as_secs()))?;
    let output = output.map_err(|error| format!("`{line}` cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{line}` failed ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{line}` printed what is not UTF-8"))
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("a fixed key"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Command(line) => write!(f, "`{line}`"),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_key_takes_the_place_of_a_refused_one_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "first\n").unwrap();
        for key in [Key::file(&path), Key::command(format!("cat {}", path.display()))] {
            std::fs::write(&path, "first\nsecond line\n").unwrap();
            let first = key.current().await.unwrap();
            assert_eq!(first.expose_secret(), "first");
            std::fs::write(&path, "second\n").unwrap();
            assert_eq!(key.current().await.unwrap().expose_secret(), "first", "it is still fresh");
            // As if the spacing had gone by.
            key.read.lock().await.as_mut().unwrap().1 -= SPACING;
            let second = key.instead_of(&first).await.unwrap().unwrap();
            assert_eq!(second.expose_secret(), "second");
            assert!(key.instead_of(&second).await.unwrap().is_none(), "and no third one");
            assert!(!format!("{key:?}").contains("second"));
        }
    }

    #[tokio::test]
    async fn what_gives_no_key_is_told_without_what_it_said() {
        for (key, part) in [
            (Key::file("/does/not/exist"), "/does/not/exist cannot be read"),
            (Key::command("echo canary; exit 3"), "failed (exit status: 3)"),
            (Key::command("true"), "gave nothing"),
        ] {
            let error = key.current().await.unwrap_err();
            assert!(error.contains(part) && !error.contains("canary\n"), "{error}");
        }
        assert!(Key::fixed("k".to_owned()).instead_of(&"k".to_owned().into()).await.unwrap().is_none());
    }
}
