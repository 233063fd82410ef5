//! Stub: owned by the namespace room.
