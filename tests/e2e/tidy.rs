//! The house keeps its own rules: who imports whom, which file alone may use what, how long a file may be.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The top of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every file of the workspace that ends so, by its path from the top; build outputs and git's own left out.
fn files(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() && !path.is_symlink() {
                true if name == "target" || name.starts_with(".git") || name == ".cache" => {}
                true => folders.push(path),
                false if name.ends_with(ending) => {
                    let from_top = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                    found.push((from_top, std::fs::read_to_string(&path).unwrap()));
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

/// The lines of a source file before its unit tests, numbered from one.
fn before_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<_> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].contains("mod tests"));
    let n = tests.unwrap_or(lines.len());
    lines.into_iter().take(n).enumerate().map(|(n, line)| (n + 1, line))
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// (crate, the crates that it names in its manifest, development and build ones too).
fn dependencies() -> Vec<(String, BTreeSet<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let crates = metadata()["packages"].as_array().unwrap().clone();
    let of = |package: &Value| package["dependencies"].as_array().unwrap().iter().map(|d| text(&d["name"])).collect();
    crates.iter().map(|package| (text(&package["name"]), of(package))).collect()
}

#[test]
fn no_crate_imports_one_that_it_should_not_know() {
    let law = [
        ("tasks", &[][..]),
        ("templates", &[]),
        ("guest", &[]),
        ("webhooks", &["tasks"]),
        ("workers", &["guest", "tasks", "templates"]),
        ("orchestrator", &["tasks", "templates", "webhooks", "workers"]),
        ("tests", &["orchestrator", "tasks", "workers"]),
    ];
    let ours: BTreeSet<_> = law.iter().map(|(name, _)| (*name).to_owned()).collect();
    let found: Vec<_> = dependencies();
    assert_eq!(found.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), ours, "each crate has a line");
    for (name, dependencies) in found {
        let allowed = law.iter().find(|(of, _)| *of == name).unwrap().1;
        let imported: Vec<_> = dependencies.intersection(&ours).collect();
        let forbidden: Vec<_> = imported.iter().filter(|import| !allowed.contains(&import.as_str())).collect();
        assert!(forbidden.is_empty(), "{name} imports {forbidden:?}; ARCHITECTURE.md says who may import whom");
    }
}

#[test]
fn a_foreign_crate_is_used_only_in_the_room_that_owns_it() {
    let law = [
        ("minijinja", &["templates"][..]),
        ("sled", &["orchestrator"]),
        ("clap", &["orchestrator"]),
        ("ssh-key", &["workers"]),
        ("toml_edit", &["orchestrator"]),
        ("bollard", &["workers"]),
        ("octocrab", &["workers"]),
        ("git2", &["workers", "tests"]),
    ];
    for (name, dependencies) in dependencies() {
        for (foreign, rooms) in law {
            let allowed = !dependencies.contains(foreign) || rooms.contains(&name.as_str());
            assert!(allowed, "{name} uses {foreign}, which belongs to {rooms:?}");
        }
    }
}

#[test]
fn a_foreign_crate_is_named_only_in_the_files_that_wrap_it() {
    // What, and the beginnings of the paths that may name it.
    let law = [
        ("sled::", &["orchestrator/src/queue/"][..]),
        ("bollard::", &["workers/src/sandbox/docker"]),
        ("octocrab::", &["workers/src/forge/github"]),
        ("minijinja::", &["templates/src/"]),
        // The guest's environment is that of the box, a build script's is cargo's, and tests are run by people.
        (
            "env::var",
            &["orchestrator/src/config", "workers/build.rs", "workers/guest/src/", "workers/tests/", "tests/"],
        ),
    ];
    let mut complaints = Vec::new();
    for (path, text) in files(".rs") {
        for (name, places) in law {
            if places.iter().any(|place| path.starts_with(place)) || path.starts_with("tests/e2e/tidy") {
                continue;
            }
            let code = before_tests(&text).filter(|(_, line)| !line.trim_start().starts_with("//"));
            let named = code.filter(|(_, line)| names(line, name));
            complaints.extend(named.map(|(n, _)| format!("{path}:{n} names {name}, which only {places:?} may")));
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Whether a line names the crate or module `what`, and not only something whose name ends like it.
fn names(line: &str, what: &str) -> bool {
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(what).any(|(at, _)| !line[..at].ends_with(is_part_of_name))
}

/// A comparison that ends at the first difference tells in its time how much of a guess is right. No test of behaviour sees
/// that, so the only comparison that there is may be the one of the library.
#[test]
fn what_proves_who_somebody_is_is_compared_by_the_library() {
    for (path, n_proofs) in [
        ("webhooks/src/github/signature.rs", 1),
        ("webhooks/src/hooks.rs", 2),
        ("orchestrator/src/remote/access.rs", 1),
        ("orchestrator/src/front/tokens.rs", 1),
        ("orchestrator/src/dashboard/session.rs", 2),
    ] {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let code: Vec<_> = before_tests(&text).map(|(_, line)| line).filter(|line| !line.contains("//")).collect();
        let proofs = code.iter().filter(|line| line.contains(".verify_slice(")).count();
        assert_eq!(proofs, n_proofs, "{path} proves in another way");
        // A digest may be kept to be verified against later, and never compared.
        let compares = |line: &&&str| line.contains("==") || line.contains("!=") || line.contains(".eq(");
        let secret = ["finalize", "into_bytes", "digest", "token", "signature", "expose_secret"];
        let own: Vec<_> =
            code.iter().filter(compares).filter(|line| secret.iter().any(|word| line.contains(word))).collect();
        assert!(own.is_empty(), "{path} compares by itself: {own:#?}");
    }
    let same = std::fs::read_to_string(root().join("workers/src/egress/models/mod.rs")).unwrap();
    assert_eq!(
        same.matches("self.token").count(),
        same.matches("self.token.as_bytes())").count(),
        "only `same` sees it"
    );
}

#[test]
fn a_file_tells_one_story_of_at_most_500_lines_before_its_tests() {
    let lengths = files(".rs").into_iter().map(|(path, text)| (path, before_tests(&text).count()));
    // A file of nothing but tests may take the room that they need.
    let too_long: Vec<_> = lengths.filter(|(path, n)| *n > 500 && !path.ends_with("/tests.rs")).collect();
    assert!(too_long.is_empty(), "split these where their stories split: {too_long:#?}");
}

#[test]
fn no_test_is_switched_off() {
    let switch = concat!("#[", "ignore");
    for (path, text) in files(".rs") {
        assert!(!text.contains(switch), "{path} switches a test off; mend it or remove it");
    }
}

#[test]
fn the_architecture_fits_in_one_reading() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let n = text.lines().count();
    assert!((20..=200).contains(&n), "ARCHITECTURE.md has {n} lines");
}

#[test]
fn no_template_signs_off_for_anybody() {
    for (path, text) in [".j2", ".toml"].into_iter().flat_map(files) {
        let signs = path.starts_with("templates/") && text.to_lowercase().contains("signed-off-by");
        assert!(!signs, "{path}: only a person can sign off");
    }
}
