//! The middle: where tasks wait, and what wires the rooms together.

pub mod queue;
pub mod reaper;
