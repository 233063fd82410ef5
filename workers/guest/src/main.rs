//! PID 1 of every sandbox.
//!
//! The guest is the only part of Onramp inside a sandbox: it starts commands, moves files and carries connections, all
//! as frames over its standard input and output (see [`guest::protocol`]). It trusts the worker at the other end and
//! nothing inside; the worker in turn believes of it only what a hostile guest could not misuse.
//!
//! `onramp-guest --namespace …` is the other half of the same program: it builds the namespaces that it then serves.

mod namespace;
mod serve;
mod sys;

fn main() {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "--namespace") {
        namespace::launch(&arguments[2..]);
    }
    serve::serve();
}
