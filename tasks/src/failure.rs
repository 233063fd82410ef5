//! What can go wrong, in words that a person can act on.
//!
//! Every failure that reaches a person carries a stable [`Code`], says what happened and why, and names the next step.
//! `onramp explain E012` prints the long form.

use std::{fmt, str::FromStr};

use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, queue::WorkerName, repo::NameError, task::TaskId};

/// Who has to act: decides whether an attempt is repeated by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Our side or the network: tried again by itself.
    Infrastructure,
    /// The worker vanished: tried again by itself.
    LeaseExpired,
    /// The attempt ran out of its wall time.
    Timeout,
    /// The attempt ran out of money or tokens.
    Budget,
    /// The agent could not do it.
    Agent,
    /// The checks of the repository failed on the change.
    Verification,
    /// Somebody has to change a configuration, a permission or the request.
    Configuration,
}

impl FailureKind {
    /// All kinds, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::Infrastructure,
        Self::LeaseExpired,
        Self::Timeout,
        Self::Budget,
        Self::Agent,
        Self::Verification,
        Self::Configuration,
    ];
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $kind:ident, $exit:literal, $next:literal;)+) => {
        /// The stable code of a failure. Codes are never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $variant,)+
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// `E012`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// Who has to act.
            pub fn kind(self) -> FailureKind {
                match self { $(Self::$variant => FailureKind::$kind),+ }
            }

            /// The exit code of the command line.
            pub fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit),+ }
            }

            /// What it means: the explanation that `onramp explain` prints.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// The usual next step. A failure may carry a more exact one.
            pub fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next),+ }
            }
        }
    };
}

// Exit codes: 0 ok, 1 internal, 2 usage, 3 verification failed, 4 authorisation, 5 environment, 6 no changes,
// 7 budget or time limit, 130 stopped.
codes! {
    /// The instruction is empty, so there is nothing to ask an agent for.
    EmptyInstruction = "E001", Configuration, 2, "Say what to do: onramp run \"fix the off-by-one in pager.rs\", -F FILE, or - for standard input.";
    /// The path is not the top of a git repository.
    NotARepository = "E002", Configuration, 2, "Give the path of a git checkout with --repo, or run `git init` and commit there first.";
    /// The repository cannot be found, or the credentials may not read it.
    RepositoryNotFound = "E003", Configuration, 2, "Check the spelling of owner/name, and that the token or the app installation may read it.";
    /// The base branch or revision does not exist in the repository, or the repository has no commit yet.
    BaseNotFound = "E004", Configuration, 2, "Name a branch that exists with --base, or commit something first.";
    /// The working tree has uncommitted changes, which a run would silently leave out.
    DirtyTree = "E005", Configuration, 2, "Commit or stash them, or pass --base HEAD to start from the last commit and leave them out.";
    /// The configuration of Onramp cannot be read.
    BadConfig = "E006", Configuration, 2, "Mend the key named above; config.example.toml shows every key with its default.";
    /// The `.onramp.toml` of the repository, on its base branch, cannot be read.
    BadRepoConfig = "E007", Configuration, 2, "Mend the key named above in `.onramp.toml` on the base branch, then ask again.";
    /// A secret that is needed here is missing or empty.
    MissingSecret = "E008", Configuration, 4, "Set the environment variable or the file named above.";
    /// A command line option or argument cannot be used so.
    Usage = "E009", Configuration, 2, "See `onramp help` for the options of this command.";
    /// Neither a Docker engine nor the kernel's namespaces can be used here, so nothing can be run in isolation.
    NoSandbox = "E010", Configuration, 5, "Start a Docker engine, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu 24.04 also kernel.apparmor_restrict_unprivileged_userns=0).";
    /// The Docker engine does not answer.
    EngineUnreachable = "E011", Infrastructure, 5, "Start the engine, or check DOCKER_HOST and your permission on its socket (`docker info` must answer).";
    /// The image of the environment is not on the engine and cannot be pulled.
    ImageMissing = "E012", Configuration, 5, "Check the name under [environment] image in `.onramp.toml`, or `docker pull` it yourself first.";
    /// The sandbox could not be started.
    SandboxStart = "E013", Infrastructure, 5, "The reason stands above; `onramp demo` tells whether sandboxes work here at all.";
    /// A setup command of the repository failed, so the agent was never started.
    SetupFailed = "E014", Configuration, 5, "Mend `setup` under [environment] in `.onramp.toml`; its output stands above.";
    /// The sandbox ended while it was needed: killed for memory, or the engine was stopped.
    SandboxLost = "E015", Infrastructure, 5, "It is tried again by itself; if it happens each time, raise [limits] memory in `.onramp.toml`.";
    /// The repository asks for an image, and the namespace sandbox has only the host's own tools.
    ImageNeedsEngine = "E016", Configuration, 5, "Start a Docker engine, or accept the host's tools with --sandbox namespace.";
    /// A resource that the task asks for, such as a GPU, is not on this worker.
    ResourceMissing = "E017", Configuration, 5, "Remove the requirement from `.onramp.toml`, or run a worker that has it.";
    /// The repository has something that cannot be carried exactly: SHA-256 object ids, damaged objects, a tree beyond all limits.
    RepositoryUnsupported = "E018", Configuration, 2, "What it is stands above; a repository with SHA-1 object ids that passes `git fsck` can be used.";
    /// This host or engine cannot give an isolation that every sandbox must have or that the operator demands, and nobody accepted it without.
    WeakIsolation = "E019", Configuration, 5, "What is missing stands above: mend it on the host, or accept it by its name under [sandbox] accept_without in the configuration.";
    /// No agent of that name is known.
    UnknownAgent = "E020", Configuration, 2, "Use one of the names listed above, or add templates for it in the agents directory.";
    /// The agent ended with an error.
    AgentFailed = "E021", Agent, 1, "Its last lines stand above and its whole transcript is kept; say more in the instruction, or try another --agent.";
    /// The agent ran longer than its wall time allows.
    AgentTimedOut = "E022", Timeout, 7, "Raise [limits] time in `.onramp.toml`, or ask for something smaller; what it had changed is kept.";
    /// The agent's program is not in the sandbox.
    AgentNotInstalled = "E023", Configuration, 5, "Use an image that has it, or (namespace sandbox) name its directory under [sandbox] expose.";
    /// The agent finished and changed nothing.
    NothingChanged = "E024", Agent, 6, "Say more exactly what should change; the transcript shows what it looked at.";
    /// The agent was silent for too long.
    AgentIdle = "E025", Timeout, 7, "Look at the end of the transcript; raise [limits] idle in `.onramp.toml` if the silence was work.";
    /// The task used all that it may use of something, or used something that cannot be measured and is limited.
    BudgetSpent = "E026", Budget, 7, "What was done is kept; raise the limit under [budget] in the configuration, then `onramp task retry` it.";
    /// Policy does not allow the patch.
    PolicyRejected = "E030", Verification, 3, "Change the request, or allow the path or size under [policy] in `.onramp.toml` on the base branch.";
    /// The change holds something that cannot be carried exactly: a device, a nested repository, an evil name.
    PatchRefused = "E031", Verification, 3, "The path is named above; ask the agent not to create it.";
    /// The text is no patch that can be put on its base.
    BadPatch = "E032", Verification, 2, "Make it with `git diff` against the base named above, or name a range of commits such as main..topic instead.";
    /// A required check failed on the change, in a clean sandbox, after the last round.
    ChecksFailed = "E040", Verification, 3, "The end of each failed check's output is shown; the diff is kept and can be taken over by hand.";
    /// No checks are configured and none could be detected, so nothing could be verified.
    NoChecks = "E041", Configuration, 2, "Add a [[check]] with name and command to `.onramp.toml` on the base branch.";
    /// The forge refused the credentials.
    ForgeAuth = "E050", Configuration, 4, "Check the token or the app's key and that it is not expired.";
    /// The person who asked may not write to the repository, or the credentials lack a permission.
    PermissionDenied = "E051", Configuration, 4, "Ask somebody with write permission, or grant the permission named above.";
    /// The forge refused the push.
    PushRejected = "E052", Configuration, 4, "The forge's reason stands above; the verified diff is kept.";
    /// The pull request cannot be opened.
    PullRequestRefused = "E053", Configuration, 4, "The forge's reason stands above; the branch is pushed and the diff is kept.";
    /// The forge does not answer, or answers with its own error.
    ForgeUnavailable = "E054", Infrastructure, 1, "It is tried again by itself; check the network and the forge's status if it goes on.";
    /// The chat does not answer, or answers with its own error.
    ChatUnavailable = "E057", Infrastructure, 1, "It is tried again by itself; check the network and the chat's status if it goes on.";
    /// The chat refused the credentials, or the app lacks a permission there.
    ChatRefused = "E058", Configuration, 4, "Check the tokens under [slack], and that the app is installed with the scopes of `templates/slack_manifest.json`.";
    /// Another Onramp uses the same data directory.
    StoreLocked = "E060", Configuration, 5, "Stop the other one, or give this one its own --data-dir.";
    /// The task store is damaged and was not touched.
    StoreDamaged = "E061", Configuration, 5, "Keep a copy of the data directory; the record named above is the first bad one.";
    /// The task store cannot take writes: the disk is full or failing.
    StoreUnavailable = "E062", Infrastructure, 5, "Free space on the data directory's disk; nothing that was acknowledged is lost.";
    /// The task store was written by a newer Onramp, and was not touched.
    StoreNewer = "E065", Configuration, 5, "Run the newer Onramp again, or give this one another --data-dir.";
    /// The address to listen on cannot be used.
    CannotListen = "E063", Configuration, 5, "Choose another address with [server] listen, or stop the program that uses it.";
    /// The server will not have this worker: another token, or another version of the protocol between them.
    WorkerRefused = "E064", Configuration, 4, "Give [worker] token the same value on both sides, and install the same version of onramp on both.";
    /// Somebody stopped the task.
    Cancelled = "E070", Agent, 130, "What was done until then is kept; ask again to start anew.";
    /// The worker vanished while it held the task.
    WorkerLost = "E071", LeaseExpired, 1, "It is tried again by itself, up to its limit; the worker's log says why it went away.";
    /// Every worker that took the task vanished while it held it, so it was set aside for a person to look at.
    PoisonTask = "E072", LeaseExpired, 1, "Look at the worker's log for what the task does to it, then `onramp task retry` it.";
    /// The person who asked has too many tasks waiting already.
    TooManyQueued = "E073", Budget, 7, "Ask again when some of them have ended, or raise [queue] queued_per_actor in the configuration.";
    /// A repository, a person, a team or all together have used what they may use this month.
    OverBudget = "E074", Budget, 7, "See `onramp budget`; raise the limit under [budget] in the configuration, or wait for the next month, then `onramp task retry` it.";
    /// The signed statement about a change does not hold.
    EvidenceBroken = "E080", Verification, 3, "Do not trust the change that it is about: take the statement from the pull request anew, and ask who changed it.";
    /// The key of signed statements cannot be used, or none was given to hold a statement against.
    EvidenceKey = "E081", Configuration, 4, "Give the public key with --key, as `onramp evidence key` shows it where the statement was signed.";
    /// There is no such task here, or the token may not see it.
    UnknownTask = "E090", Configuration, 2, "`onramp task list` shows the tasks of this data directory.";
    /// The task is in a state that does not allow this.
    NotNow = "E091", Configuration, 2, "`onramp task show` says where the task stands.";
    /// The request to the API names no token, or one that is unknown, revoked or out of date.
    BadToken = "E092", Configuration, 4, "Make one on the server with `onramp token create`, and send it as `Authorization: Bearer …`.";
    /// The token is known and does not reach so far.
    ScopeMissing = "E093", Configuration, 4, "Use a token with the scope named above: `onramp token create --scope`.";
    /// Too many requests in a short time.
    TooManyRequests = "E094", Budget, 7, "Wait for the seconds that Retry-After names, or raise [api] requests_per_minute.";
    /// There is no such artifact: the attempt did not get that far, or it has another name.
    NoArtifact = "E095", Configuration, 2, "`onramp task show` lists what a task left behind.";
    /// A defect in Onramp itself.
    Internal = "E099", Infrastructure, 1, "Please report it with the lines above; the task's artifacts are kept.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Code {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(value)).ok_or_else(|| NameError {
            value: value.chars().take(120).collect(),
            expected: "a known error code such as E012",
        })
    }
}

/// What went wrong, for a person: what happened, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// Who has to act. Usually the code's kind.
    pub kind: FailureKind,
    /// What happened and why: one or two sentences, no chain of causes, no secret.
    pub message: String,
    /// What to do now: one sentence.
    pub next_step: String,
    /// More for the curious: the end of an output, the original text of an error. May have many lines.
    pub detail: Option<String>,
    /// Not to be tried again before this moment (a rate limit told so).
    pub retry_not_before: Option<Timestamp>,
}

impl Failure {
    /// A failure with the code's kind and next step.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            kind: code.kind(),
            message: message.into(),
            next_step: code.next_step().to_owned(),
            detail: None,
            retry_not_before: None,
        }
    }

    /// The same with a more exact next step.
    #[must_use]
    pub fn next(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = next_step.into();
        self
    }

    /// The same with more for the curious. Empty text is none.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into()).filter(|text| !text.trim().is_empty());
        self
    }

    /// A defect of ours, with the error that showed it.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(Code::Internal, format!("Something went wrong inside Onramp: {error}"))
    }

    /// The failure of a task whose workers vanish.
    pub fn poison(worker: &WorkerName, stage: &str, crashes: u32) -> Self {
        let message = format!(
            "The worker vanished {crashes} times while it held the task (the last one was {worker}, while {stage}), so the \
             task was set aside"
        );
        Self::new(Code::PoisonTask, message)
    }

    /// The failure of an attempt whose worker vanished.
    pub fn lease_expired(worker: &WorkerName) -> Self {
        Self::new(Code::WorkerLost, format!("The worker {worker} vanished while it held the task"))
    }
}

/// When a failed attempt is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After so many failures the task is failed for good.
    pub max_failures: u32,
    /// After so many vanished workers the task is set aside. 0, in records of the first format only: they count as failures.
    pub max_crashes: u32,
    /// The wait after the first failure; doubles with each further one.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_failures: 3, max_crashes: 3, base: Duration::seconds(10), cap: Duration::minutes(15) }
    }
}

impl RetryPolicy {
    /// When to try again after the `failures`th failure (or crash), or `None` when it is final. A pure function: the jitter of up
    /// to a quarter of the wait comes from the task's id, so that tasks that failed together do not come back together.
    pub fn retry_at(&self, failure: &Failure, failures: u32, now: Timestamp, task: TaskId) -> Option<Timestamp> {
        let retries = matches!(failure.kind, FailureKind::Infrastructure | FailureKind::LeaseExpired);
        let max = match failure.kind {
            FailureKind::LeaseExpired if self.max_crashes > 0 => self.max_crashes,
            _ => self.max_failures,
        };
        if !retries || failures >= max {
            return None;
        }
        let doublings = failures.saturating_sub(1).min(16);
        let wait = (self.base * (1 << doublings)).min(self.cap);
        let spread = i64::from(task.as_bytes()[15]) * wait.num_milliseconds() / (4 * 255);
        let at = now + wait + Duration::milliseconds(spread);
        Some(failure.retry_not_before.map_or(at, |not_before| at.max(not_before)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::task::tests::now;

    #[test]
    fn every_code_is_unique_found_by_its_text_and_says_what_to_do() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert_eq!(code.as_str().to_lowercase().parse::<Code>().as_ref(), Ok(code));
            assert!(code.meaning().ends_with('.') && code.next_step().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn the_wait_doubles_is_capped_and_honours_the_forge() {
        let policy = RetryPolicy { max_failures: 50, ..RetryPolicy::default() };
        let task = TaskId::from_bytes([0; 16]);
        let failure = Failure::new(Code::ForgeUnavailable, "x");
        let wait = |failure: &Failure, n| (policy.retry_at(failure, n, now(), task).unwrap() - now()).num_seconds();
        assert_eq!([1, 2, 3, 40].map(|n| wait(&failure, n)), [10, 20, 40, 900]);
        let limited = Failure { retry_not_before: Some(now() + Duration::hours(1)), ..failure };
        assert_eq!(wait(&limited, 1), 3600);
    }
}
