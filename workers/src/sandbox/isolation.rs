//! How strong the wall around a sandbox is, as an operator can demand it.
//!
//! An order of kinds, weakest first. A weaker kind than the one demanded is refused with the reason: whoever demands a
//! virtual machine must never get a container because the machine could not be had.

use std::fmt;

use serde::Deserialize;
use tasks::{Code, Failure};

/// The kinds of walls, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The kernel's namespaces and filters, built by the worker itself.
    Namespace,
    /// A container of an engine, with its usual runtime.
    Docker,
    /// A container behind a kernel of its own in user space (gVisor).
    Runsc,
    /// A container in a virtual machine (Kata).
    Kata,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Docker => "docker",
            Self::Runsc => "runsc",
            Self::Kata => "kata",
        })
    }
}

impl Isolation {
    /// What an engine's runtime of this name gives; `""` is the engine's usual one. Operators choose these names, but
    /// everybody derives them from the program's: `runsc-kvm`, `kata-qemu`, `io.containerd.kata.v2`.
    pub fn of_runtime(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name {
            name if name.contains("kata") => Self::Kata,
            name if name.contains("runsc") || name.contains("gvisor") => Self::Runsc,
            _ => Self::Docker,
        }
    }

    /// Refuses a kind of sandbox that is weaker than what is demanded.
    ///
    /// # Errors
    /// E019 with what is offered, what is demanded, and how to get it.
    pub fn demand(self, offered: Self) -> Result<(), Failure> {
        if offered >= self {
            return Ok(());
        }
        let message = format!(
            "[sandbox] minimum_isolation demands {self}, and what would be used here is only {offered}; nothing is run \
             behind a weaker wall than the one demanded"
        );
        let next = match self {
            Self::Namespace | Self::Docker => {
                "Start a Docker engine and use [sandbox] backend = \"docker\", or lower minimum_isolation.".to_owned()
            }
            Self::Runsc | Self::Kata => format!(
                "Install {self} on the engine's machine, register it there as a runtime, and name it under [sandbox] \
                 runtime; or lower minimum_isolation."
            ),
        };
        Err(Failure::new(Code::WeakIsolation, message).next(next))
    }
}

/// Refuses a runtime that the engine does not list: the engine would say so only when the first sandbox starts.
///
/// # Errors
/// E019 with the runtimes that the engine lists.
pub fn runtime_is_listed(runtime: &str, listed: &[String]) -> Result<(), Failure> {
    if runtime.is_empty() || listed.iter().any(|name| name == runtime) {
        return Ok(());
    }
    let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
    let message = format!(
        "[sandbox] runtime = \"{runtime}\" is not among the runtimes of the Docker engine, and no other is used instead"
    );
    let next = format!(
        "Register it in the engine's daemon.json under \"runtimes\" and restart the engine, or name one of these: {listed}."
    );
    Err(Failure::new(Code::WeakIsolation, message).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weaker_kind_than_the_one_demanded_is_refused_and_an_equal_or_stronger_one_is_not() {
        let kinds = [Isolation::Namespace, Isolation::Docker, Isolation::Runsc, Isolation::Kata];
        for (n, demanded) in kinds.into_iter().enumerate() {
            for (m, offered) in kinds.into_iter().enumerate() {
                assert_eq!(demanded.demand(offered).is_ok(), m >= n, "{demanded} {offered}");
            }
        }
        let failure = Isolation::Kata.demand(Isolation::Docker).unwrap_err();
        insta::assert_snapshot!(failure, @"[sandbox] minimum_isolation demands kata, and what would be used here is only docker; nothing is run behind a weaker wall than the one demanded (E019)");
    }

    #[test]
    fn a_runtime_is_judged_by_the_program_in_its_name() {
        for (name, kind) in [
            ("", Isolation::Docker),
            ("runc", Isolation::Docker),
            ("nvidia", Isolation::Docker),
            ("runsc-kvm", Isolation::Runsc),
            ("io.containerd.runsc.v1", Isolation::Runsc),
            ("kata-qemu", Isolation::Kata),
            ("io.containerd.kata.v2", Isolation::Kata),
        ] {
            assert_eq!(Isolation::of_runtime(name), kind, "{name}");
        }
    }

    #[test]
    fn a_runtime_that_is_not_listed_is_refused_with_the_list() {
        let listed = ["io.containerd.runc.v2".to_owned(), "runc".to_owned()];
        assert!(runtime_is_listed("", &[]).is_ok() && runtime_is_listed("runc", &listed).is_ok());
        let failure = runtime_is_listed("runsc", &listed).unwrap_err();
        assert_eq!(failure.code, Code::WeakIsolation);
        assert!(failure.next_step.contains("io.containerd.runc.v2, runc"), "{failure:?}");
    }
}
