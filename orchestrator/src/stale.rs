//! Pull requests of ours that nobody does anything with: said on each, once, and closed where the operator wants that.
//!
//! Nothing is said or closed on what the queue believes alone: the forge is asked right before, because people also do
//! things that nobody tells us of. What was said is stored, so that it is said once.

use std::{sync::Arc, time::Duration as StdDuration};

use chrono::Duration;
use tasks::{Change, Failure, Intake as _, PullRequest, QueueError, Task, TaskFilter, TaskState, Timestamp};
use tokio_util::sync::CancellationToken;
use workers::forge::Forge;

use crate::{
    config,
    queue::{Clock, Queue},
};

/// How often all open pull requests are looked at.
const LOOK_EVERY: StdDuration = StdDuration::from_secs(3600);
/// What the forge notes of our own comment may be so much later than what we noted.
const OWN_TOUCH: Duration = Duration::minutes(10);

/// Who looks after them.
pub struct StaleWatch {
    queue: Arc<Queue>,
    forge: Arc<dyn Forge>,
    clock: Clock,
    /// Without anything done for so long, a pull request is stale.
    after: Duration,
    then: config::Stale,
}

/// Why one pull request was left for the next time.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Forge(#[from] Failure),
    #[error("{0}")]
    Queue(#[from] QueueError),
}

impl StaleWatch {
    /// One that says so after `after`, and does `then`.
    pub fn new(queue: Arc<Queue>, forge: Arc<dyn Forge>, clock: Clock, after: Duration, then: config::Stale) -> Self {
        Self { queue, forge, clock, after, then }
    }

    /// Looks again and again.
    pub async fn run(&self, shutdown: CancellationToken) {
        if self.then == config::Stale::Keep {
            return;
        }
        loop {
            match self.look_once((self.clock)()).await {
                Ok(0) => {}
                Ok(n_done) => tracing::info!(n_done, "stale pull requests were dealt with"),
                Err(QueueError::ShuttingDown) => return,
                Err(error) => tracing::warn!(%error, "stale pull requests are looked for again later"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks at every open pull request. Returns at how many something was said or done.
    ///
    /// # Errors
    /// When the queue cannot be read. What the forge refuses is logged and left for the next time.
    pub async fn look_once(&self, now: Timestamp) -> Result<usize, QueueError> {
        let mut n_done = 0;
        for task in self.queue.list(TaskFilter::default()).await? {
            let TaskState::PullRequestOpen { pull_request } = &task.state else { continue };
            let since = task.noticed_at.unwrap_or(task.updated_at).max(task.updated_at);
            let done = match (task.stale_at, self.then) {
                (_, config::Stale::Keep) => Ok(false),
                (None, _) if since + self.after <= now => self.call_stale(&task, pull_request, now).await,
                (Some(at), config::Stale::Close) if at + self.after / 2 <= now => {
                    self.close(&task, pull_request, at, now).await
                }
                (None | Some(_), _) => Ok(false),
            };
            match done {
                Ok(done) => n_done += usize::from(done),
                Err(Trouble::Queue(error @ (QueueError::ShuttingDown | QueueError::Unavailable(_)))) => {
                    return Err(error);
                }
                Err(trouble) => {
                    tracing::warn!(task.id = %task.id, %trouble, "a stale pull request is left for the next time");
                }
            }
        }
        Ok(n_done)
    }

    /// Says that nobody does anything with it. Key: a marker of its own.
    async fn call_stale(&self, task: &Task, pull: &PullRequest, now: Timestamp) -> Result<bool, Trouble> {
        let found = self.forge.pull_request_now(&pull.repo, pull.number).await?;
        if !found.is_open {
            return Ok(false);
        }
        if let Some(at) = found.touched_at.filter(|at| *at + self.after > now) {
            self.queue.notice(task.id, at).await?;
            return Ok(false);
        }
        self.say(task, pull, false).await?;
        self.queue.found_stale(task.id, now).await?;
        Ok(true)
    }

    /// Closes it, unless somebody has done something since it was said. Closing twice is closing once.
    async fn close(
        &self,
        task: &Task,
        pull: &PullRequest,
        said_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Trouble> {
        let found = self.forge.pull_request_now(&pull.repo, pull.number).await?;
        if !found.is_open {
            return Ok(false);
        }
        // What the forge does not say is no reason to close anything.
        let touched_at = found.touched_at.unwrap_or(now);
        if touched_at > said_at + OWN_TOUCH {
            self.queue.notice(task.id, touched_at).await?;
            return Ok(false);
        }
        self.say(task, pull, true).await?;
        self.forge.close_pull_request(&pull.repo, pull.number).await?;
        let key = format!("stale:{}", task.id).parse().map_err(Failure::internal)?;
        let change = Change::PullRequestClosed { repo: pull.repo.clone(), number: pull.number };
        self.queue.observe(key, change).await?;
        Ok(true)
    }

    async fn say(&self, task: &Task, pull: &PullRequest, closed: bool) -> Result<(), Trouble> {
        let id = task.id.to_string();
        let closes_in = (self.then == config::Stale::Close).then(|| words(self.after / 2));
        let body = templates::stale(&templates::StaleNote {
            task_id: &id,
            idle: &words(self.after),
            closes_in: closes_in.as_deref(),
            closed,
        })
        .map_err(Failure::internal)?;
        self.forge.status_comment(&pull.repo, pull.number, &templates::stale_marker(&id), &body).await?;
        Ok(())
    }
}

/// A span of time for people, in its largest unit.
fn words(span: Duration) -> String {
    let (n, unit) = match (span.num_days(), span.num_hours()) {
        (1.., _) => (span.num_days(), "day"),
        (_, 1..) => (span.num_hours(), "hour"),
        _ => (span.num_minutes().max(1), "minute"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}
