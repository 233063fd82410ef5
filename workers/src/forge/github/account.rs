//! What GitHub counts for each account rather than for each token: how much is left to be asked, until when it wants to
//! be left alone, and how fast something may be written. All tokens of one installation share one of these.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::header::HeaderMap;
use tasks::Timestamp;

use super::errors::{Trouble, answered_at, text, wall_now};

/// The last tenth of what may be asked in an hour is kept for tasks: who only looks for news waits then.
const RESERVE: u64 = 10;

/// One account's standing with GitHub.
#[derive(Default)]
pub(super) struct Account {
    /// From the end of one write to the start of the next, as GitHub asks of its clients.
    pause: Duration,
    /// Held while something is written, because GitHub wants one write after the other. When the last one ended.
    written: tokio::sync::Mutex<Option<Instant>>,
    /// Until then GitHub wants to be left alone, and why. Who asks on while limited risks to be shut out.
    limited: Mutex<Option<(Instant, Trouble)>>,
    /// When the hour is over whose requests are nearly used up.
    scarce_until: Mutex<Option<Timestamp>>,
}

/// The right to write. Others write when it is dropped and the pause is over.
pub(super) struct Turn<'a>(tokio::sync::MutexGuard<'a, Option<Instant>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0 = Some(Instant::now());
    }
}

impl Account {
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, ..Self::default() }
    }

    /// Waits until something may be written.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let written = self.written.lock().await;
        if let Some(left) = written.and_then(|at| self.pause.checked_sub(at.elapsed())) {
            tokio::time::sleep(left).await;
        }
        Turn(written)
    }

    /// # Errors
    /// GitHub wants to be left alone.
    pub(super) fn may_ask(&self) -> Result<(), Trouble> {
        match &*lock(&self.limited) {
            Some((until, trouble)) if Instant::now() < *until => Err(trouble.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn leave_alone(&self, until: Timestamp, trouble: Trouble) {
        let wait = (until - wall_now()).to_std().unwrap_or_default();
        *lock(&self.limited) = Some((Instant::now() + wait, trouble));
    }

    /// Takes note of what an answer says about what is left.
    pub(super) fn heard(&self, headers: &HeaderMap) {
        let number = |name: &str| text(headers, name)?.parse::<u64>().ok();
        let (Some(limit), Some(left), Some(reset)) =
            (number("x-ratelimit-limit"), number("x-ratelimit-remaining"), number("x-ratelimit-reset"))
        else {
            return;
        };
        // The reset is told in GitHub's time, and waited for in ours.
        let seconds = i64::try_from(reset).unwrap_or(i64::MAX).saturating_sub(answered_at(headers).timestamp());
        let until = wall_now() + chrono::Duration::seconds(seconds.clamp(0, 3600));
        *lock(&self.scarce_until) = (left < limit / RESERVE).then_some(until);
    }

    /// # Errors
    /// What is left is for tasks.
    pub(super) fn may_look_around(&self) -> Result<(), Trouble> {
        match *lock(&self.scarce_until) {
            Some(until) if wall_now() < until => {
                let words = "the last tenth of this hour's requests is kept for tasks".to_owned();
                Err(Trouble::Limited { until, words })
            }
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(left: u64, reset: i64) -> HeaderMap {
        let reset = (wall_now() + chrono::Duration::seconds(reset)).timestamp();
        let pairs = [
            ("x-ratelimit-limit", 5000),
            ("x-ratelimit-remaining", left),
            ("x-ratelimit-reset", reset.cast_unsigned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.parse().unwrap(), value.into())).collect()
    }

    fn is_kept(account: &Account) -> bool {
        account.may_look_around().is_err()
    }

    #[test]
    fn the_last_tenth_of_an_hour_is_kept_for_tasks_until_the_hour_is_over() {
        let account = Account::default();
        assert!(!is_kept(&account), "nothing is known yet");
        account.heard(&headers(500, 600));
        assert!(!is_kept(&account));
        account.heard(&headers(499, 600));
        assert!(is_kept(&account));
        assert!(account.may_ask().is_ok(), "tasks go on");
        account.heard(&HeaderMap::new());
        assert!(is_kept(&account), "an answer that says nothing changes nothing");
        account.heard(&headers(3, -1));
        assert!(!is_kept(&account), "the hour is over");
    }

    #[tokio::test]
    async fn writes_come_one_after_the_other_with_a_pause_between_them() {
        let account = Account::new(Duration::from_millis(200));
        let first = account.turn().await;
        assert!(account.written.try_lock().is_err(), "one at a time");
        drop(first);
        let ended = Instant::now();
        drop(account.turn().await);
        assert!(ended.elapsed() >= Duration::from_millis(190), "{:?}", ended.elapsed());
    }
}
