//! The definitions of the agents that ship with Onramp: data, one file per agent, embedded so that the binary is whole.

/// (file name, TOML) of each definition, in the order in which they are listed to people.
pub static AGENTS: &[(&str, &str)] = &[];
