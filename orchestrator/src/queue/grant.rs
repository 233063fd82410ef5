//! A lease between the committer that gave it and the worker that asked for it.

use std::sync::Arc;

use tasks::{Lease, Task};
use tokio::sync::mpsc;

use super::{Shared, commit::Step, locked};

/// A lease on its way to a worker. One that does not arrive, because nobody waits any more, goes back at once instead
/// of when it ends, and costs the task nothing.
pub(super) struct Grant {
    pub(super) granted: Option<(Task, Lease)>,
    pub(super) shared: Arc<Shared>,
    pub(super) steps: mpsc::WeakSender<Step>,
}

impl Grant {
    pub(super) fn take(mut self) -> Option<(Task, Lease)> {
        self.granted.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Some((_, lease)) = self.granted.take() else { return };
        locked(&self.shared.returned).push(lease);
        // Only to wake the committer; when its channel is full, it is awake.
        if let Some(steps) = self.steps.upgrade() {
            let _ = steps.try_send(Box::new(|_| Box::new(|_| ())));
        }
    }
}
