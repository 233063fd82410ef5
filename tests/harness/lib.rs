//! What the end-to-end tests stand on: a GitHub that fits in a test, genuine deliveries, models that follow a script, and
//! Onramp itself, started in this process with a directory of its own.

pub mod apart;
pub mod delivery;
pub mod github;
pub mod log;
pub mod lossy;
pub mod model;
pub mod onramp;
pub mod slack;
pub mod target;

pub use onramp::{Backend, Onramp, Setup};
