//! The definitions of agents that ship with Onramp. What they mean is known to the hands; here they are words.

/// The definitions of agents that ship with Onramp: (file name, TOML).
pub static AGENTS: &[(&str, &str)] = &[
    ("aider.toml", include_str!("../agents/aider.toml")),
    ("claude.toml", include_str!("../agents/claude.toml")),
    ("codex.toml", include_str!("../agents/codex.toml")),
    ("command.toml", include_str!("../agents/command.toml")),
    ("opencode.toml", include_str!("../agents/opencode.toml")),
];
