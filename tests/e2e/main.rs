//! The proof: what Onramp promises, through the front door, on real parts. A test name is a statement.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails where it tries")]

mod agents;
mod apart;
mod api;
mod bad_input;
mod bases;
mod checks;
mod door;
mod egress;
mod gates;
mod gpu;
mod hooks;
mod limits;
mod manners;
mod once;
mod operator;
mod pages;

mod planted;
mod poll;
mod published;
mod publishing;
mod queue_bench;
mod queue_faults;
mod real_agent;
mod road;
mod setup;
mod slack;
mod talk;
mod tidy;
mod verdicts;

/// Makes a test of each statement for each kind of sandbox.
macro_rules! with_each_sandbox {
    ($($statement:ident),+ $(,)?) => {
        mod docker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $statement() {
                super::$statement(tests::Backend::Docker).await;
            })+
        }
        mod namespace {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $statement() {
                super::$statement(tests::Backend::Namespace).await;
            })+
        }
    };
}
use with_each_sandbox;
