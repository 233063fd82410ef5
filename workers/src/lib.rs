//! The hands: one leased task to one outcome.
//!
//! [`run::run_task`] is the whole life of one attempt, in order. What it needs is in [`run::Hands`]; how far it is goes
//! to a [`progress::Progress`]; everything that leaves a sandbox leaves it through [`sandbox::Sandbox`].

pub mod agent;
pub mod artifacts;
pub mod base;
pub mod bundle;
pub mod checkout;
pub mod doctor;
pub mod egress;
mod environment;
pub mod fence;
pub mod forbidden;
pub mod forge;
pub mod gpu;
pub mod local;
pub mod onboard;
pub mod patch;
pub mod policy;
pub mod progress;
pub mod progress_log;
pub mod publish;
pub mod remote;
pub mod repo_config;
pub mod revision;
pub mod risk;
pub mod run;
pub mod sandbox;
pub mod text;
pub mod toml_problem;
pub mod verify;
pub mod worker;
mod workspace;
