//! What an attempt asks of the world outside: its tally, and what becomes of it when that is used up.

use std::{sync::Arc, time::Duration};

use tasks::{Allowance, Code, Failure};

use super::EXTRACT_LIMITS;
use crate::{
    artifacts::Artifacts,
    checkout::{Base, Mirror},
    egress::Tally,
    patch::Patch,
    progress::{Progress, ProgressEvent},
    sandbox::{Command, Output, Sandbox},
};

/// How much is written down of what left a sandbox; the tally goes on counting.
const EGRESS_LOG_BYTES: u64 = 8 << 20;

/// What is asked of the world outside, and may be: every exchange and every host is a line of an artifact too.
pub(super) fn tally(allowance: Allowance, artifacts: &Artifacts) -> Arc<Tally> {
    let log = artifacts.log("egress.jsonl", EGRESS_LOG_BYTES);
    let log = log.inspect_err(|error| tracing::warn!(%error, "what leaves the sandbox is not written down")).ok();
    Arc::new(Tally::new(allowance, log))
}

/// Looks at the network interfaces of a box from which nothing may leave. Best effort: a box without `cat` is not counted.
pub(super) async fn count_interfaces(sandbox: &Sandbox, tally: &Tally) {
    let mut said = Vec::new();
    let command = Command::shell("cat /proc/net/dev", Duration::from_secs(10));
    let mut on_output = |piece: Output<'_>| {
        if let Output::Stdout(bytes) = piece {
            said.extend_from_slice(bytes);
        }
    };
    match sandbox.run(&command, &mut on_output).await {
        Ok(exit) if exit.success() => tally.interfaces(&String::from_utf8_lossy(&said)),
        other => tracing::warn!(?other, "the network interfaces of a sandbox could not be counted"),
    }
}

/// Writes down what an agent had changed that could not come to its end. Best effort: it failed for another reason.
pub(super) async fn keep_diff(
    sandbox: &Sandbox,
    mirror: &Mirror,
    base: &Base,
    artifacts: &Artifacts,
    progress: &Progress,
) {
    let patched = async { Patch::extract(sandbox, mirror, &base.commit, EXTRACT_LIMITS).await?.onto(mirror).await };
    let kept =
        patched.await.and_then(|patched| artifacts.write("diff.patch", &patched.diff()).map_err(Failure::internal));
    match kept {
        Ok(diff) => progress.tell(ProgressEvent::Diff(diff)),
        Err(failure) => tracing::warn!(failure.message, "the change of a task that was stopped could not be kept"),
    }
}

pub(super) fn budget_spent(tally: &Tally) -> Failure {
    let spent = tally.record().spent();
    let why = tally.stopped().unwrap_or_default();
    let price = match spent.n_unpriced {
        0 => spent.money.to_string(),
        n => format!("at least {} (the price of {n} answers is unknown)", spent.money),
    };
    let message = format!(
        "The task was stopped: {why}. It spent {price} for {} tokens read and {} written",
        spent.tokens.input, spent.tokens.output
    );
    Failure::new(Code::BudgetSpent, message)
}
