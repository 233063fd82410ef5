//! What both sides are asked to do: the same verbs on the same requests.

use tasks::{Actor, Deliver, Instruction, Resources, Source, TaskRequest};

/// One side. Every verb returns when what it did is on disk.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// What was leased.
    type Leased: Send;

    /// Stores a request.
    fn enqueue(&self, request: TaskRequest) -> impl Future<Output = ()> + Send;

    /// The next task, once there is one.
    fn lease(&self, worker: usize) -> impl Future<Output = Self::Leased> + Send;

    /// Says that the task is done.
    fn acknowledge(&self, leased: Self::Leased) -> impl Future<Output = ()> + Send;
}

const BODY: &str = "Steps: open the settings, change the language, save, and reload. The page shows the old language until the \
session ends. Expected: the new language is there at once. It worked in the last release; since then the cookie is read \
before the profile, and whatever the profile says comes too late. ";

/// The n-th request: an issue of its own, among fifty repositories, from one of many people.
pub(crate) fn request(n: u64) -> TaskRequest {
    TaskRequest {
        dedupe_key: format!("github:72d3162e-cc78-11e3-81ab-{n:012}").parse().expect("a key"),
        source: Source::IssueLabelled { issue: n + 1, label: "onramp".into() },
        actor: Actor { login: format!("person-{}", n / 20), id: Some(1000 + n / 20) },
        repo: format!("acme/web-{}", n % 50).parse().expect("a name"),
        base: None,
        agent: None,
        instruction: Instruction {
            title: format!("The language of the page does not change ({n})"),
            body: BODY.repeat(4),
            trusted: false,
            about: String::new(),
        },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    }
}
