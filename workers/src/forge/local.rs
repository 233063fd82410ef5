//! Stub: owned by the forge room.
