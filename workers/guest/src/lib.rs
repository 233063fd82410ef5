//! What the guest and the worker share: the frames between them, and how an embedded sandbox is asked for. The rest of
//! the guest is its program, `main.rs`.

pub mod launch;
pub mod protocol;
