//! What the surfaces ask of the queue beyond what door and hands ask of it.

use tasks::{Actor, DedupeKey, QueueError, TaskId};

use super::{Queue, QueueRecord, events, unavailable, verbs};

impl Queue {
    /// What happened to one task, oldest first, with the place of each event in the journal. At most `limit` events; those
    /// of segments that were removed are missing.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when the journal cannot be read.
    pub async fn events_of(&self, task: TaskId, limit: usize) -> Result<Vec<(u64, QueueRecord)>, QueueError> {
        let Some(stored) = self.ask(move |index| index.task(task)).await? else { return Ok(Vec::new()) };
        let (shared, until) = (self.shared.clone(), self.shared.durable.borrow().head.sequence);
        let read = move || events::read_of(&shared, &stored, until, limit);
        let events = tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(&error))?;
        events.map_err(|error| unavailable(&error))
    }

    /// Says something to a task that waits or runs. Idempotent by `key`.
    ///
    /// # Errors
    /// [`QueueError::HasEnded`] when nobody is at work on it any more, and as for every write.
    pub async fn say(&self, key: DedupeKey, task: TaskId, by: Actor, text: String) -> Result<(), QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::say(draft, key, task, (by, text), now)).await
    }
}
