//! Stub: owned by the sandbox room.
