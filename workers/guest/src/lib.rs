//! What the guest and the worker share: the frames between them. The rest of the guest is its program, `main.rs`.

pub mod protocol;
