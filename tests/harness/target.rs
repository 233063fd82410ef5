//! What was built or installed beside the tests: the binary, and the real agents.

use std::path::{Path, PathBuf};

/// Cargo's target directory, found from the running test: `<target>/<profile>/deps/<test>`.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let deps = test.parent().expect("the test lies in a folder");
    // A benchmark lies beside the binary, a test one folder deeper.
    let folder = if deps.ends_with("deps") { deps.parent().expect("deps lies in a profile") } else { deps };
    folder.to_owned()
}

/// The binary `onramp`. Cargo builds it for no other crate's tests, so `tests/run` does before it starts them.
///
/// # Panics
/// When it was not built.
pub fn onramp() -> PathBuf {
    there(profile().join("onramp"), "cargo build -p orchestrator")
}

/// The folder with the programs of the real agents.
///
/// # Panics
/// When they were not installed.
pub fn agents() -> PathBuf {
    brought("test-agents/bin")
}

/// What GitHub publishes about itself: `requests.json` of its API, `deliveries.json` of its webhooks.
///
/// # Panics
/// When it was not fetched.
pub fn published(file: &str) -> PathBuf {
    brought(&format!("test-github/{file}"))
}

fn brought(path: &str) -> PathBuf {
    let target = profile().parent().expect("a profile lies in the target directory").to_owned();
    there(target.join(path), "tests/bring-up.sh")
}

fn there(path: PathBuf, made_by: &str) -> PathBuf {
    assert!(path.exists(), "{} is not there; run `{made_by}` first, or all of it with `tests/run`", path.display());
    path
}

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}
