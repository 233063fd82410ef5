//! What the queue refuses, in words with a code and a next step.

use tasks::{Code, Failure, QueueError};

/// The refusal as a failure that any surface can show.
#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
pub fn refusal(error: QueueError) -> Failure {
    match &error {
        QueueError::Unavailable(_) | QueueError::ShuttingDown => Failure::new(Code::StoreUnavailable, sentence(&error)),
        QueueError::UnknownTask(_) => Failure::new(Code::UnknownTask, sentence(&error)),
        QueueError::AlreadyAtWork(other) => Failure::new(Code::NotNow, sentence(&error))
            .next(format!("Wait for it, or stop it first: onramp task stop {}", other.short())),
        QueueError::HasEnded(_) => Failure::new(Code::NotNow, sentence(&error))
            .next("`onramp task retry` tries it again; or ask for a new one."),
        QueueError::InvalidTransition(_) | QueueError::StaleLease { .. } => {
            Failure::new(Code::NotNow, sentence(&error))
        }
    }
}

fn sentence(error: &QueueError) -> String {
    let text = match error {
        QueueError::InvalidTransition(refused) => {
            let done = if refused.event.word() == "cancel_requested" { "stopped" } else { "put back" };
            format!("a task that is {} cannot be {done}", refused.state)
        }
        other => other.to_string(),
    };
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
