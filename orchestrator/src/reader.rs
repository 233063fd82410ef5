//! Reads the journal's events in their order for who acts on them, across restarts.
//!
//! Whoever reads keeps what was read and is not dealt with. The durable cursor stays before the oldest of that, so after a
//! crash it is read again: every act that follows from an event has to bear that.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasks::QueueError;
use tokio_util::sync::CancellationToken;

use crate::queue::{Queue, QueueRecord};

/// Events that are read at once.
const BATCH: usize = 500;
/// The pause after the store could not be read.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// A look around without being woken, in case that a wake-up was lost.
const IDLE: Duration = Duration::from_secs(60);
/// What is due and was left over is for the next pass, not for a busy loop.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// One reader of the journal.
pub(crate) struct Reader {
    queue: Arc<Queue>,
    /// The name of its cursor in the queue.
    cursor: &'static str,
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// Events up to here have been read. `None` before the first time.
    read_to: Option<u64>,
    /// The cursor as it is stored.
    stored: u64,
}

impl Reader {
    pub(crate) fn new(queue: Arc<Queue>, cursor: &'static str) -> Self {
        Self { queue, cursor, place: Mutex::default() }
    }

    /// Hands over every event that was not read yet, oldest first.
    pub(crate) async fn read(&self, mut take: impl FnMut(u64, QueueRecord)) -> Result<(), QueueError> {
        let known = self.place().read_to;
        let mut read_to = match known {
            Some(read_to) => read_to,
            None => {
                let cursor = self.queue.cursor(self.cursor).await?;
                self.place().stored = cursor;
                cursor
            }
        };
        loop {
            let events = self.queue.events_after(read_to, BATCH).await?;
            let n_events = events.len();
            for (sequence, record) in events {
                read_to = sequence;
                take(sequence, record);
            }
            self.place().read_to = Some(read_to);
            if n_events < BATCH {
                return Ok(());
            }
        }
    }

    /// Moves the durable cursor right before the oldest event that is not dealt with; past everything where there is none.
    pub(crate) async fn settle(&self, oldest_open: Option<u64>) -> Result<(), QueueError> {
        let (cursor, stored) = {
            let place = self.place();
            (oldest_open.map(|oldest| oldest - 1).or(place.read_to).unwrap_or(0), place.stored)
        };
        if cursor > stored {
            self.queue.set_cursor(self.cursor, cursor).await?;
            self.place().stored = cursor;
        }
        Ok(())
    }

    /// Waits for what the next pass is for: an event, or what this one says comes next. False: there is no next one.
    pub(crate) async fn wait(
        &self,
        passed: Result<Option<chrono::Duration>, QueueError>,
        shutdown: &CancellationToken,
    ) -> bool {
        let (wake, may_read) = match passed {
            Ok(next) => {
                let next = next.map(|next| next.to_std().unwrap_or_default().max(SHORTEST_WAIT));
                (next.unwrap_or(IDLE), true)
            }
            Err(QueueError::ShuttingDown) => return false,
            Err(error) => {
                tracing::warn!(reader = self.cursor, %error, "it goes on when the task store can be used again");
                (STORE_PAUSE, false)
            }
        };
        let read_to = self.place().read_to.unwrap_or(0);
        let events = async {
            // A store that cannot be read wakes nobody: then the time does.
            if !may_read || self.queue.wait_for_event(read_to).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => false,
            () = events => true,
            () = tokio::time::sleep(wake) => true,
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
