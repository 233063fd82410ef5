//! Bringing a workspace from one tree to another, in a single flight.
//!
//! Each answer of a guest has a long way: through an engine it passes four other processes. So everything is said at once and
//! the answers are waited for together; the guest works them off in the order in which they were said.

use guest::protocol::ToGuest;

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

impl Sandbox {
    /// Brings the workspace to another tree and remembers how it looks then: as [`Sandbox::delete`], [`Sandbox::put`] and
    /// [`Sandbox::mark_paths`] (or [`Sandbox::mark`], when nobody has looked at it yet) one after the other, in the time of
    /// the longest of them.
    ///
    /// # Errors
    /// As those have; the workspace is then somewhere in between.
    pub async fn update(&self, update: &Update) -> Result<(), SandboxError> {
        self.check_paths(&update.put)?;
        let mut asked: Vec<(Channel, &'static str)> = Vec::new();
        for paths in pieces(update.gone.clone()) {
            asked.push((self.ask_only(&ToGuest::Delete { paths })?, DELETE));
        }
        if !update.put.is_empty() {
            let put = self.open_put()?;
            self.send_files(&put, &update.put).await?;
            asked.push((put, WRITE));
        }
        let is_marked = self.is_marked();
        if is_marked {
            for paths in pieces(update.paths().map(<[u8]>::to_vec).collect()) {
                asked.push((self.ask_only(&ToGuest::MarkPaths { paths })?, LOOK));
            }
        } else {
            asked.push((self.ask_only(&ToGuest::Mark)?, LOOK));
        }
        for (channel, operation) in &asked {
            self.done(channel, operation).await?;
        }
        if !is_marked {
            self.now_marked();
        }
        Ok(())
    }
}
