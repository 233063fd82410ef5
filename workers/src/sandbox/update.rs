//! Bringing a workspace from one tree to another, in a single flight with what comes next.
//!
//! Each answer of a guest has a long way: through an engine it passes four other processes. So everything is said at once,
//! the command that is to run on the new tree too, and the guest works it off in the order in which it was said. Whoever asks
//! for something in the workspace hears first whether it holds its tree; nothing that ran without that is ever told.

use std::sync::atomic::{AtomicBool, Ordering};

use guest::protocol::ToGuest;
use tokio::sync::Mutex;

use super::{Sandbox, SandboxError, TreeFile, conversation::Channel, translate::pieces};

const WRITE: &str = "write files";
const DELETE: &str = "delete files";
const LOOK: &str = "look at the workspace";

/// What differs between the tree that a workspace holds and the one that it shall hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Files that shall not be there any more. They go first: a file may have become a directory.
    pub gone: Vec<Vec<u8>>,
    /// Files that are new, have another content, or are of another kind.
    pub put: Vec<TreeFile>,
}

impl Update {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.put.is_empty()
    }

    /// Every path that differs.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.gone.iter().map(Vec::as_slice).chain(self.put.iter().map(|file| file.path.as_slice()))
    }
}

/// The answers to an update that nobody has waited for yet.
#[derive(Default)]
pub(super) struct Owed {
    /// From the beginning of an update until it is known to have come about.
    is_open: AtomicBool,
    answers: Mutex<Vec<(Channel, &'static str)>>,
}

impl Sandbox {
    /// Brings the workspace to another tree and remembers how it looks then: as [`Sandbox::delete`], [`Sandbox::put`] and
    /// [`Sandbox::mark_paths`] (or [`Sandbox::mark`], when nobody has looked at it yet) one after the other, in the time of
    /// the longest of them.
    ///
    /// # Errors
    /// As those have; the workspace is then somewhere in between.
    pub async fn update(&self, update: &Update) -> Result<(), SandboxError> {
        self.begin_update(update).await?;
        self.settle().await
    }

    /// As [`Sandbox::update`], and leaves its answers to whoever asks for something next.
    ///
    /// # Errors
    /// For a path that cannot be one. Everything else is told by [`Sandbox::settle`].
    pub async fn begin_update(&self, update: &Update) -> Result<(), SandboxError> {
        self.settle().await?;
        self.check_paths(&update.put)?;
        let mut asked = self.owed.answers.lock().await;
        self.owed.is_open.store(true, Ordering::Release);
        for paths in pieces(update.gone.clone()) {
            asked.push((self.ask_only(&ToGuest::Delete { paths })?, DELETE));
        }
        if !update.put.is_empty() {
            let put = self.open_put()?;
            self.send_files(&put, &update.put).await?;
            asked.push((put, WRITE));
        }
        if self.is_marked() {
            for paths in pieces(update.paths().map(<[u8]>::to_vec).collect()) {
                asked.push((self.ask_only(&ToGuest::MarkPaths { paths })?, LOOK));
            }
        } else {
            asked.push((self.ask_only(&ToGuest::Mark)?, LOOK));
            self.is_marked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the workspace was looked at already: so it is with a box that stood ready.
    pub fn is_marked(&self) -> bool {
        self.is_marked.load(Ordering::Relaxed)
    }

    /// Whether every update is known to have come about.
    pub fn is_settled(&self) -> bool {
        !self.owed.is_open.load(Ordering::Acquire)
    }

    /// Waits until the last update has come about, if that is not known yet. After one that did not, nothing does any more.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn settle(&self) -> Result<(), SandboxError> {
        if self.is_settled() {
            return Ok(());
        }
        let mut answers = self.owed.answers.lock().await;
        if self.is_settled() {
            return Ok(());
        }
        // Taken out first: an update whose answers somebody began to hear and gave up on counts as one that failed.
        let answers = std::mem::take(&mut *answers);
        if answers.is_empty() {
            let reason = "the workspace was not brought to its tree".to_owned();
            return Err(SandboxError::Refused { operation: WRITE, reason });
        }
        for (channel, operation) in &answers {
            self.done(channel, operation).await?;
        }
        self.owed.is_open.store(false, Ordering::Release);
        Ok(())
    }
}
