//! How many attempts run at the same time, when some of them only wait.
//!
//! An attempt that waits for a GPU, or computes on one, gives its place to the next task: tasks without a GPU never stand
//! behind tasks with one. Each still holds its sandbox, so only a small multiple of the GPUs may step aside at a time;
//! one more keeps its place while it waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Attempts that may stand aside for each GPU: one that computes, and some that wait.
const ASIDE_PER_GPU: usize = 4;

/// The places of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Places {
    places: Arc<Semaphore>,
    aside: Arc<Semaphore>,
    n_workers: usize,
}

/// One attempt's place.
#[derive(Debug)]
pub struct Place {
    place: Option<OwnedSemaphorePermit>,
    aside: Option<OwnedSemaphorePermit>,
    /// Where to stand aside.
    room: Arc<Semaphore>,
}

impl Places {
    /// So many attempts at a time, and some more that need a GPU.
    pub fn new(n_workers: usize, n_gpus: usize) -> Self {
        let n_aside = if n_workers == 0 { 0 } else { n_gpus.saturating_mul(ASIDE_PER_GPU) };
        let aside = Arc::new(Semaphore::new(n_aside));
        Self { places: Arc::new(Semaphore::new(n_workers)), n_workers: n_workers + n_aside, aside }
    }

    /// How many workers are needed so that one is always there for a free place.
    pub fn n_workers(&self) -> usize {
        self.n_workers
    }

    /// A place for the next attempt, when there is one. Safe to drop while it waits.
    pub async fn take(&self) -> Place {
        // It is never closed; if it were, an attempt without a place would only be one too many.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        Place { place, aside: None, room: Arc::clone(&self.aside) }
    }
}

impl Place {
    /// Gives the place to the next attempt, if there is room to stand aside.
    pub fn step_aside(&mut self) {
        if self.place.is_some()
            && let Ok(aside) = Arc::clone(&self.room).try_acquire_owned()
        {
            self.aside = Some(aside);
            self.place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_waits_for_a_gpu_makes_room_for_who_does_not() {
        let places = Places::new(1, 1);
        assert_eq!(places.n_workers(), 1 + ASIDE_PER_GPU);
        let mut first = places.take().now_or_never().unwrap();
        assert!(places.take().now_or_never().is_none(), "one at a time");
        first.step_aside();
        first.step_aside();
        let second = places.take().now_or_never().expect("the first only waits");
        drop(first);
        assert!(places.take().now_or_never().is_none(), "what was given away once is not given away again");
        drop(second);
    }

    #[test]
    fn only_so_many_stand_aside_and_one_more_keeps_its_place() {
        let places = Places::new(1, 1);
        let mut aside = Vec::new();
        for _ in 0..ASIDE_PER_GPU {
            let mut place = places.take().now_or_never().unwrap();
            place.step_aside();
            aside.push(place);
        }
        let mut last = places.take().now_or_never().unwrap();
        last.step_aside();
        assert!(places.take().now_or_never().is_none());
        aside.pop();
        last.step_aside();
        assert!(places.take().now_or_never().is_some());
    }

    #[test]
    fn without_gpus_there_are_as_many_workers_as_places_and_without_workers_none() {
        assert_eq!(Places::new(3, 0).n_workers(), 3);
        assert_eq!(Places::new(0, 8).n_workers(), 0);
    }
}
