//! Limits that an operator may do without.

use serde::Deserialize;

/// A limit that a host without the right control groups cannot enforce for sandboxes out of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostLimit {
    /// Memory of the whole sandbox.
    Memory,
    /// Processes of the whole sandbox.
    Pids,
    /// CPU time of the whole sandbox.
    Cpu,
}

impl HostLimit {
    /// The word in the configuration, which is also the name of the control group's controller.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}
