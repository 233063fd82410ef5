//! The middle: where tasks wait, and how every room is wired.

pub mod config;
pub mod notify;
pub mod queue;
pub mod reaper;
pub mod telemetry;
pub mod user_error;
