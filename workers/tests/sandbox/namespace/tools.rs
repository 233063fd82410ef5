//! Tools and caches of the host: what is shown inside, and what is not.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use workers::sandbox::HostTools;

use super::{code_of, own_backend};
use crate::suite::{sh, with_sandbox};

#[expect(clippy::disallowed_methods, reason = "the tests run with the tools of whoever runs them")]
fn host_path() -> (Option<PathBuf>, String) {
    (std::env::var_os("HOME").map(PathBuf::from), std::env::var("PATH").unwrap_or_default())
}

#[tokio::test]
async fn the_toolchains_of_whoever_runs_the_worker_work_inside() {
    let (home, path) = host_path();
    let tools = HostTools::detect(home.as_deref(), &path);
    let inside: Vec<PathBuf> = std::env::split_paths(&tools.path()).collect();
    let (_root, backend) = own_backend(tools);
    with_sandbox(backend, async |sandbox| {
        let mut n_found = 0;
        for tool in ["git", "python3", "node", "cargo", "rustc", "cc", "go"] {
            if inside.iter().any(|dir| dir.join(tool).exists()) {
                let version = if tool == "go" { "version" } else { "--version" };
                sh(sandbox, &format!("{tool} {version}")).await;
                n_found += 1;
            }
        }
        assert!(n_found >= 1, "the tests need at least one of the tools");
        assert_ne!(code_of(sandbox, "ls ~/../../root/.ssh ~/.ssh").await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_crate_is_built_and_tested_with_the_hosts_compiler() {
    let (home, path) = host_path();
    let tools = HostTools::detect(home.as_deref(), &path);
    if !std::env::split_paths(&tools.path()).any(|dir| dir.join("cargo").exists()) {
        eprintln!("SKIPPED: this user has no cargo on its PATH");
        return;
    }
    with_sandbox(own_backend(tools).1, async |sandbox| {
        let line = "cargo init -q --lib --vcs none --name tiny 2>&1 && cargo test -q --offline 2>&1 | grep 'test result: ok. 1 passed'";
        sh(sandbox, line).await;
    })
    .await;
}

#[tokio::test]
async fn a_directory_below_a_closed_home_is_shown_read_only_and_its_siblings_are_not() {
    let home = tempfile::tempdir().unwrap();
    let tool = home.path().join("tools/bin");
    std::fs::create_dir_all(&tool).unwrap();
    std::fs::write(tool.join("hello"), "#!/bin/sh\necho hello\n").unwrap();
    std::fs::set_permissions(tool.join("hello"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(home.path().join("token"), "secret").unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut tools = HostTools::default();
    tools.expose.push(home.path().join("tools"));
    with_sandbox(own_backend(tools).1, async |sandbox| {
        let home = home.path().display();
        assert_eq!(sh(sandbox, &format!("{home}/tools/bin/hello; ls -A {home}")).await, "hello\ntools");
        assert_ne!(code_of(sandbox, &format!("touch {home}/tools/x")).await, Some(0));
        assert_ne!(code_of(sandbox, &format!("cat {home}/token")).await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_cache_of_the_host_is_read_and_never_changed() {
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(cache.path().join("index/deep")).unwrap();
    std::fs::write(cache.path().join("crate"), "downloaded").unwrap();
    std::fs::set_permissions(cache.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut tools = HostTools::default();
    tools.caches.push((cache.path().to_owned(), PathBuf::from("/home/onramp/.cargo/registry")));
    with_sandbox(own_backend(tools).1, async |sandbox| {
        let line = "cd ~/.cargo/registry && cat crate && echo evil > crate && echo new > index/deep/new && cat index/deep/new crate";
        assert_eq!(sh(sandbox, line).await, "downloadednew\nevil");
        sh(sandbox, "touch ~/.cargo/config.toml").await;
    })
    .await;
    assert_eq!(std::fs::read_to_string(cache.path().join("crate")).unwrap(), "downloaded");
    assert_eq!(std::fs::read_dir(cache.path().join("index/deep")).unwrap().count(), 0);
}
