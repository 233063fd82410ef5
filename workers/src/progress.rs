//! How far an attempt is, told while it happens.

use std::{path::PathBuf, sync::Arc};

use tasks::{CheckResult, Stage};

/// One thing that a person may want to see while an attempt runs.
#[derive(Debug, Clone)]
pub enum ProgressEvent {
    /// The attempt went on to another stage.
    Stage(Stage),
    /// It waits for something that others hold, and says for what: `waiting for a GPU (h100)`.
    Waiting(String),
    /// One step inside a stage is done, in a few words: `checked out main@a1b2c3d`.
    Step(String),
    /// Something that the person should know and that stops nothing.
    Warning(String),
    /// The agent said or did something, in one line without control codes.
    Agent(String),
    /// A check ended.
    Check(CheckResult),
    /// The verified diff lies here.
    Diff(PathBuf),
}

/// Where progress goes. Cheap to clone; never blocks the work.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(ProgressEvent) + Send + Sync>);

impl Progress {
    /// Calls `sink` with each event, on whichever thread it happens.
    pub fn new(sink: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Tells one event.
    pub fn tell(&self, event: ProgressEvent) {
        (self.0)(event);
    }

    /// Tells that a step is done.
    pub fn step(&self, text: impl Into<String>) {
        self.tell(ProgressEvent::Step(text.into()));
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}
