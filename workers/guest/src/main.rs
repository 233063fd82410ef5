//! PID 1 of every sandbox.
//!
//! The guest is the only part of Onramp inside a sandbox: it starts commands, moves files and carries connections, all
//! as frames over its standard input and output (see [`guest::protocol`]). It trusts the worker at the other end and
//! nothing inside; the worker in turn believes of it only what a hostile guest could not misuse.
//!
//! `onramp-guest --namespace` is the other half of the same program: it builds the namespaces that it then serves, and
//! gives commands its own environment, which holds what the worker chose for them and nothing else.
//! `onramp-guest --image-environment` gives commands what the image sets for every program in it, such as its `PATH`;
//! otherwise nothing that the guest was started with reaches them. Either puts the same filter of system calls over all
//! that it starts (see [`seccomp`]).

mod disk;
mod exec;
mod files;
mod flow;
mod gauges;
mod namespace;
mod seccomp;
mod serve;
mod sys;
mod tree;
mod tunnel;

use gauges::Gauges;
use serve::Inside;

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|first| first.to_str()) {
        Some("--namespace") => {
            let gauges = namespace::launch();
            serve::serve(Inside { gauges, inherits: true, writes_anywhere: false })
        }
        Some("--image-environment") => {
            seal();
            serve::serve(Inside { gauges: Gauges::of_container(), inherits: true, writes_anywhere: true })
        }
        _ => serve::serve(Inside { gauges: Gauges::default(), inherits: false, writes_anywhere: false }),
    }
}

/// Closes in a container what its engine may have left open. A guest that cannot do it serves nothing.
fn seal() {
    sys::harden();
    if let Err(error) = seccomp::install() {
        eprintln!("the filter of system calls cannot be installed: {error}");
        std::process::exit(1);
    }
}
