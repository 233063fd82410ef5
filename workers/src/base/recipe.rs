//! What a base is made by, as one fingerprint; and which files of the repository its setup may have read.

use std::sync::OnceLock;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    repo_config::{RepoConfig, glob},
    sandbox::{GUEST, SandboxBackend},
};

/// What installers read to know what to install: a base whose setup ran on another one of these is another base.
const INSTALLED_FROM: &[&str] = &[
    "Cargo.lock",
    "Gemfile",
    "Gemfile.lock",
    "MODULE.bazel.lock",
    "Package.resolved",
    "Pipfile",
    "Pipfile.lock",
    "Podfile.lock",
    "bun.lock",
    "bun.lockb",
    "composer.json",
    "composer.lock",
    "conda-lock.yml",
    "deno.lock",
    "environment.yml",
    "flake.lock",
    "go.mod",
    "go.sum",
    "gradle.lockfile",
    "mix.exs",
    "mix.lock",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "package.json",
    "packages.lock.json",
    "pdm.lock",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "poetry.lock",
    "pubspec.lock",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "uv.lock",
    "yarn.lock",
];

/// The fingerprint of everything but files: what is run, where, and what it may reach.
pub(super) fn of(config: &RepoConfig, backend: &dyn SandboxBackend) -> String {
    static GUEST_DIGEST: OnceLock<String> = OnceLock::new();
    let environment = &config.environment;
    let image = environment.image.as_deref();
    let parts = json!({
        "guest": GUEST_DIGEST.get_or_init(|| hex::encode(Sha256::digest(GUEST))),
        "environment": backend.environment_key(image),
        "image": image,
        "setup": environment.setup,
        "prebuild": environment.prebuild,
        "env": environment.env,
        "hosts": [config.network.allow, config.network.setup],
        "rebuild_on": environment.rebuild_on,
    });
    hex::encode(Sha256::digest(parts.to_string()))
}

/// Whether the setup of a base may have read this file: then a base that was built on another one does not serve.
pub(super) fn depends_on(config: &RepoConfig, path: &[u8]) -> bool {
    let environment = &config.environment;
    let path = String::from_utf8_lossy(path);
    let listed = |pattern: &String| glob(pattern, false).is_ok_and(|glob| glob.is_match(path.as_ref()));
    if environment.rebuild_on.iter().any(listed) {
        return true;
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_installed_from =
        INSTALLED_FROM.binary_search(&name).is_ok() || (name.starts_with("requirements") && name.ends_with(".txt"));
    // A script that a setup command names.
    let is_named = || environment.setup.iter().any(|line| line.contains(path.as_ref()));
    !environment.setup.is_empty() && (is_installed_from || is_named())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_setup_reads_need_another_base() {
        assert!(INSTALLED_FROM.is_sorted());
        let config = |text: &str| {
            let text = format!("version = 1\n[environment]\n{text}\n[[check]]\nname = \"t\"\ncommand = \"t\"\n");
            RepoConfig::load(Some(text.as_bytes()), &[]).unwrap()
        };
        let with_setup = config("setup = [\"npm ci\", \"sh tools/setup.sh\"]\nrebuild_on = [\"db/**\"]");
        for (path, depends) in [
            ("package-lock.json", true),
            ("web/package.json", true),
            ("requirements-dev.txt", true),
            ("tools/setup.sh", true),
            ("db/schema.sql", true),
            ("src/requirements.rs", false),
            ("src/index.js", false),
            ("a-package.json", false),
        ] {
            assert_eq!(depends_on(&with_setup, path.as_bytes()), depends, "{path}");
        }
        let without = config("rebuild_on = [\"*.lock\"]");
        assert!(!depends_on(&without, b"package.json"), "nothing was installed from it");
        assert!(depends_on(&without, b"Cargo.lock"));
    }
}
