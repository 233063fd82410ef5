//! The program `onramp`.
fn main() {}
