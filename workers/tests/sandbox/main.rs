//! Sandboxes, for real: the same suite over every backend, the protocol under arbitrary bytes, and hostile guests.

#[macro_use]
mod suite;

mod docker;
mod hostile;
mod protocol;
