//! Checks for a repository that has not said how it is checked: read from the files at its top.
//!
//! Only what the repository's own tools call "the tests" is run; nothing is guessed beyond that, and what was detected
//! from which file is told in the evidence. A Makefile counts only where no language says more, because its `test` target
//! usually runs the same tests again.

use super::Check;
use crate::sandbox::{FileKind, TreeFile};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Detected {
    /// Commands to run first.
    pub(super) setup: Vec<String>,
    /// Commands that build what the checks will need, when a base is prepared.
    pub(super) prebuild: Vec<String>,
    /// The checks.
    pub(super) checks: Vec<Check>,
    /// `Cargo.toml (cargo test --locked)`, one per check.
    pub(super) from: Vec<String>,
}

impl Detected {
    /// `detected: Cargo.toml (cargo test --locked), go.mod (go test ./...)`.
    pub(super) fn origin(&self) -> String {
        format!("detected: {}", self.from.join(", "))
    }

    fn add(&mut self, file: &str, name: &str, command: &str) {
        self.from.push(format!("{file} ({command})"));
        self.checks.push(Check {
            name: name.to_owned(),
            command: command.to_owned(),
            timeout: super::CHECK_TIMEOUT,
            required: true,
            gpu: None,
        });
    }
}

/// What is looked for, for the message when none of it is there.
pub(super) const LOOKED_FOR: &str =
    "Cargo.toml, Python tests, a `test` script in package.json, go.mod, or a `test` or `check` target in a Makefile";

/// Looks at the top of a tree.
pub(super) fn detect(tree: &[TreeFile]) -> Detected {
    let tree = Tree(tree);
    let mut found = Detected::default();
    rust(&tree, &mut found);
    python(&tree, &mut found);
    javascript(&tree, &mut found);
    if tree.has("go.mod") {
        // Compiles and links every test and runs none.
        found.prebuild.push("go build ./... && go test -run '^$' ./...".to_owned());
        found.add("go.mod", "go test", "go build ./... && go test ./...");
    }
    if found.checks.is_empty() {
        make(&tree, &mut found);
    }
    found
}

struct Tree<'a>(&'a [TreeFile]);

impl Tree<'_> {
    fn has(&self, path: &str) -> bool {
        self.file(path).is_some()
    }

    fn file(&self, path: &str) -> Option<&[u8]> {
        let regular = |file: &&TreeFile| file.kind != FileKind::Symlink && file.path == path.as_bytes();
        self.0.iter().find(regular).map(|file| file.bytes.as_slice())
    }

    fn text(&self, path: &str) -> Option<String> {
        self.file(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Names of the files directly in a directory; `""`: at the top.
    fn names_in(&self, directory: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |file| {
            let path = std::str::from_utf8(&file.path).ok()?;
            let name = if directory.is_empty() { path } else { path.strip_prefix(directory)?.strip_prefix('/')? };
            (!name.contains('/')).then_some(name)
        })
    }

    fn has_below(&self, directory: &str, test: impl Fn(&str) -> bool) -> bool {
        self.0.iter().any(|file| {
            let path = String::from_utf8_lossy(&file.path);
            path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).is_some_and(&test)
        })
    }
}

fn rust(tree: &Tree<'_>, found: &mut Detected) {
    if tree.has("Cargo.toml") {
        let command = if tree.has("Cargo.lock") { "cargo test --locked" } else { "cargo test" };
        found.prebuild.push(format!("{command} --no-run"));
        found.add("Cargo.toml", "cargo test", command);
    }
}

fn is_python_test(name: &str) -> bool {
    name.starts_with("test") && name.ends_with(".py")
}

fn python(tree: &Tree<'_>, found: &mut Detected) {
    let mentions = ["pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "noxfile.py", "Pipfile"];
    let requirements = tree.names_in("").filter(|name| name.starts_with("requirements") && name.ends_with(".txt"));
    let by_text = mentions.into_iter().chain(requirements).find(|f| tree.text(f).is_some_and(|t| t.contains("pytest")));
    let by_name =
        ["pytest.ini", "conftest.py", "tests/conftest.py", "test/conftest.py"].into_iter().find(|f| tree.has(f));
    if let Some(file) = by_name.or(by_text) {
        return found.add(file, "pytest", "python3 -m pytest");
    }
    let at_the_top = tree.names_in("").find(|name| is_python_test(name));
    if let Some(file) = at_the_top {
        return found.add(file, "unittest", "python3 -m unittest discover");
    }
    for directory in ["tests", "test"] {
        let is_test = |rest: &str| is_python_test(rest.rsplit('/').next().unwrap_or(rest));
        if tree.has_below(directory, is_test) {
            // Without an __init__.py, discovery from the top does not descend and would find nothing, successfully.
            let package = tree.has(&format!("{directory}/__init__.py"));
            let start = if package { String::new() } else { format!(" -s {directory}") };
            return found.add(&format!("{directory}/"), "unittest", &format!("python3 -m unittest discover{start}"));
        }
    }
}

fn javascript(tree: &Tree<'_>, found: &mut Detected) {
    let Some(bytes) = tree.file("package.json") else { return };
    let Ok(package) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let Some(script) = package["scripts"]["test"].as_str() else { return };
    // What `npm init` writes: it prints this and fails, so it is no test.
    if script.trim().is_empty() || script.contains("Error: no test specified") {
        return;
    }
    let (tool, install) = if tree.has("pnpm-lock.yaml") {
        ("pnpm", Some("pnpm install --frozen-lockfile"))
    } else if tree.has("yarn.lock") {
        let modern = tree.has(".yarnrc.yml");
        ("yarn", Some(if modern { "yarn install --immutable" } else { "yarn install --frozen-lockfile" }))
    } else if tree.has("package-lock.json") || tree.has("npm-shrinkwrap.json") {
        ("npm", Some("npm ci"))
    } else {
        ("npm", None)
    };
    // Installing nothing would still ask the network, which a sandbox does not have by default.
    let lists = ["dependencies", "devDependencies", "optionalDependencies", "workspaces"];
    let has_any = |list: &&str| match &package[*list] {
        serde_json::Value::Object(map) => !map.is_empty(),
        serde_json::Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if lists.iter().any(has_any) {
        found.setup.extend(install.map(str::to_owned));
    }
    let command = format!("{tool} test");
    found.add("package.json", &command, &command);
}

fn make(tree: &Tree<'_>, found: &mut Detected) {
    for file in ["GNUmakefile", "makefile", "Makefile"] {
        let Some(text) = tree.text(file) else { continue };
        if let Some(target) = ["test", "check"].into_iter().find(|target| has_target(&text, target)) {
            let command = format!("make {target}");
            found.add(file, &command, &command);
        }
        return;
    }
}

fn has_target(makefile: &str, target: &str) -> bool {
    makefile.lines().filter(|line| !line.starts_with(['\t', ' ', '#', '.'])).any(|line| {
        line.split_once(':').is_some_and(|(names, rest)| {
            !rest.starts_with('=') && !names.contains('=') && names.split_whitespace().any(|name| name == target)
        })
    })
}
