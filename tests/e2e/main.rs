//! The proof: what Onramp promises, through the front door, on real parts.

mod tidy;
