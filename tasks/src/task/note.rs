//! What is said to a task after it was asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Actor;
use crate::Timestamp;

/// A second trigger for what a task already does: it makes no second task, but what it says is not lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Note {
    /// Who asked again.
    pub actor: Actor,
    /// When.
    pub at: Timestamp,
    /// What was said, title and text; empty where it was the same as before.
    pub text: String,
}

/// The most notes of one task; those after them are counted nowhere and change nothing.
pub const MAX_NOTES: usize = 50;
