//! Errors of the parts as failures of the attempt.

use tasks::{CheckResult, Code, Failure};

use crate::{sandbox::SandboxError, text};

/// A sandbox error as a failure of the attempt.
pub fn sandbox_failure(error: SandboxError) -> Failure {
    match error {
        SandboxError::Failure(failure) => failure,
        SandboxError::Lost(reason) => Failure::new(Code::SandboxLost, format!("The sandbox was lost: {reason}")),
        SandboxError::CannotRun { program, reason } => {
            Failure::new(Code::SetupFailed, format!("`{program}` cannot be run in the sandbox: {reason}"))
        }
        SandboxError::Refused { operation, reason } => {
            Failure::new(Code::PatchRefused, format!("The sandbox could not {operation}: {reason}"))
        }
        error @ SandboxError::TooMuch { .. } => Failure::new(Code::PatchRefused, capitalise(&error.to_string())),
    }
}

fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

pub(super) fn cancelled() -> Failure {
    Failure::new(Code::Cancelled, "The task was stopped")
}

pub(super) fn checks_failed(checks: &[CheckResult]) -> Failure {
    let failed: Vec<&CheckResult> = checks.iter().filter(|check| check.blocks()).collect();
    let names: Vec<String> = failed.iter().map(|check| format!("`{}`", check.name)).collect();
    let message = match names.as_slice() {
        [one] => format!("The check {one} failed on the change, in a clean sandbox"),
        many => format!("{} checks failed on the change, in a clean sandbox: {}", many.len(), many.join(", ")),
    };
    let message = failed.iter().fold(message, |message, check| text::with_limits(message, &check.limits));
    let detail: Vec<String> =
        failed.iter().map(|check| format!("$ {}\n{}", check.command, check.output_tail.trim_end())).collect();
    Failure::new(Code::ChecksFailed, message).detail(detail.join("\n\n"))
}
