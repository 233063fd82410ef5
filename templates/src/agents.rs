//! What is data and not prose: the definitions of agents that ship with Onramp, prices, presets of hosts. What they mean is
//! known to the hands; here they are words.

/// The definitions of agents that ship with Onramp: (file name, TOML).
pub static AGENTS: &[(&str, &str)] = &[
    ("aider.toml", include_str!("../agents/aider.toml")),
    ("builtin.toml", include_str!("../agents/builtin.toml")),
    ("claude.toml", include_str!("../agents/claude.toml")),
    ("codex.toml", include_str!("../agents/codex.toml")),
    ("command.toml", include_str!("../agents/command.toml")),
    ("opencode.toml", include_str!("../agents/opencode.toml")),
];

/// What models cost, as TOML.
pub static PRICES: &str = include_str!("../prices.toml");

/// Hosts that belong together, as TOML.
pub static PRESETS: &str = include_str!("../presets.toml");

/// What a model is told when its task comes near the end of its allowance.
pub static BUDGET_WARNING: &str = include_str!("../budget_warning.txt");

/// What the built-in agent is told of its work.
pub static BUILTIN_AGENT: &str = include_str!("../builtin_agent.md");
