//! The limits of a sandbox as words: what may be done without, and what a command ran into.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::repo::NameError;

/// Something that every sandbox is limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Memory, without swap.
    Memory,
    /// Processes and threads.
    Pids,
    /// CPU time per time.
    Cpu,
    /// What is written.
    Disk,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Disk];

    /// Its name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Limit {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Self::ALL.into_iter().find(|limit| limit.as_str() == value).ok_or_else(|| NameError {
            value: value.chars().take(120).collect(),
            expected: "one of memory, pids, cpu, disk",
        })
    }
}

/// A limit that was hit while a command ran, as the kernel and the guest counted it. The wall limit is not among them: it
/// ends a command, so it is an outcome of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub enum LimitHit {
    /// A process was killed because the sandbox was out of memory.
    Memory {
        /// What was allowed.
        bytes: u64,
    },
    /// A process or thread could not be started because there were too many.
    Pids {
        /// What was allowed.
        pids: u64,
    },
    /// Everything was killed because too much was written, or a file became too large.
    Disk {
        /// What was allowed.
        bytes: u64,
    },
    /// More output than is kept; the rest was dropped.
    Output {
        /// What is kept.
        bytes: u64,
    },
    /// For much of its time the command was kept waiting for its share of the CPUs. Told of commands that took too long.
    Cpu {
        /// What was allowed, in thousandths of a CPU.
        millicpus: u64,
        /// How long its processes waited, all together, in milliseconds.
        held_back_ms: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found_by_its_name_and_by_no_other() {
        for limit in Limit::ALL {
            assert_eq!(limit.to_string().parse::<Limit>(), Ok(limit));
            assert_eq!(serde_json::to_value(limit).unwrap(), limit.as_str());
        }
        assert!("Memory".parse::<Limit>().is_err());
    }
}
