//! What the end-to-end tests stand on: a GitHub that fits in a test, genuine deliveries, and Onramp itself, started in
//! this process with a directory of its own.

pub mod delivery;
pub mod github;
pub mod model;
