//! What flows through Onramp: the vocabulary that every room shares.
//!
//! This crate does no I/O, knows no async runtime and reads no clock: `now` is always passed in. The door
//! ([`queue::Intake`]) and the hands ([`queue::WorkQueue`]) meet only in these types, so neither ever sees the other.

pub mod chat;
pub mod egress;
pub mod evidence;
pub mod failure;
pub mod finding;
pub mod gpu;
pub mod ledger;
pub mod limits;
pub mod proof;
pub mod queue;
pub mod repo;
pub mod state;
pub mod task;

/// A point in wall time, UTC. For display, ordering and leases; whoever calls passes it in.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

pub use chat::{Button, ChatThread, ChatWish, Said};
pub use egress::{EgressRecord, HostUse, ModelUse, Phase};
pub use evidence::{Anchor, CheckOutcome, CheckResult, Evidence, GpuUse, TokenUsage};
pub use failure::{Code, Failure, FailureKind, RetryPolicy};
pub use finding::{Action, BundleDigest, Finding, RiskTier};
pub use gpu::{GpuChoice, GpuKind, GpuParseError, GpuRequest};
pub use ledger::{
    Account, Allowance, MachinePrices, Meter, Money, Month, Overdrawn, Reservation, Spending, Tokens, Usage,
};
pub use limits::{Limit, LimitHit};
pub use proof::{CheckProof, CheckVerdict, Proof, TestChange, TestCounts, TestVerdict};
pub use queue::{
    Asked, Change, Command, Intake, Lease, QueueError, Received, Report, TaskFilter, WorkQueue, WorkerName,
};
pub use repo::{BranchName, CommitSha, PullRequest, RepoName, TreeSha};
pub use state::{InvalidTransition, Outcome, Stage, TaskEvent, TaskState, Violation, Wait};
pub use task::{
    Actor, AgentName, BRANCH_PATTERN, DedupeKey, Deliver, Instruction, Note, Priority, Resources, Source, Task, TaskId,
    TaskRequest, Work,
};
