//! One question of a worker, however often it arrives: the newest copy is answered, and older ones end.
//!
//! A worker whose answer was lost asks again, and the server may not have noticed yet that nobody waits for the first
//! answer. If both copies waited on, each would get a task, and one of them would lie until its lease ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tasks::WorkerName;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// The questions that are open.
#[derive(Default)]
pub(super) struct Asks(Mutex<HashMap<WorkerName, Open>>);

#[derive(Clone)]
struct Open {
    superseded: CancellationToken,
    /// Held until the question has ended.
    ended: Arc<tokio::sync::Mutex<()>>,
}

/// The right to answer a question.
pub(super) struct Turn<'a> {
    asks: &'a Asks,
    worker: WorkerName,
    open: Open,
    _not_ended: OwnedMutexGuard<()>,
}

impl Asks {
    /// Ends the older copy of this question, if there is one, and returns when it has ended.
    pub(super) async fn turn(&self, worker: &WorkerName) -> Turn<'_> {
        let open = Open { superseded: CancellationToken::new(), ended: Arc::default() };
        // Nobody else knows it yet, so this waits for nothing.
        let not_ended = open.ended.clone().lock_owned().await;
        let older = self.open().insert(worker.clone(), open.clone());
        let turn = Turn { asks: self, worker: worker.clone(), open, _not_ended: not_ended };
        if let Some(older) = older {
            older.superseded.cancel();
            let _ended = older.ended.lock().await;
        }
        turn
    }

    fn open(&self) -> MutexGuard<'_, HashMap<WorkerName, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Returns when a newer copy of the question has arrived.
    pub(super) async fn superseded(&self) {
        self.open.superseded.cancelled().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut open = self.asks.open();
        if open.get(&self.worker).is_some_and(|known| Arc::ptr_eq(&known.ended, &self.open.ended)) {
            open.remove(&self.worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_copy_of_a_question_ends_the_older_one_and_comes_after_it() {
        let (asks, name) = (Asks::default(), "w.1".parse().unwrap());
        let first = asks.turn(&name).await;
        let second = asks.turn(&name);
        tokio::pin!(second);
        assert!(futures_util::FutureExt::now_or_never(second.as_mut()).is_none(), "the first has not ended");
        first.superseded().await;
        drop(first);
        drop(second.await);
        assert!(asks.open().is_empty());
    }
}
