//! Sandboxes, for real: the same suite over every backend, the protocol under arbitrary bytes, and hostile guests.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

#[macro_use]
mod suite;

mod docker;
mod engine_restart;
mod hostile;
mod namespace;
mod probes;
mod protocol;
