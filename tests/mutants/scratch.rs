//! A copy of the working tree, in which bugs are planted; its build outputs stay for the next time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::planted::{Mutant, VARIABLE, planted};

const BUILD_LIMIT_S: u64 = 3600;

pub(crate) struct Scratch {
    root: PathBuf,
    tree: PathBuf,
    target: PathBuf,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) ok: bool,
    pub(crate) hung: bool,
    /// How many tests passed or failed.
    pub(crate) n_tests: u64,
    pub(crate) took: Duration,
    pub(crate) output: String,
}

impl Scratch {
    /// The place for it.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let dir = root.join("target/mutants");
        let scratch = Self { root: root.to_owned(), tree: dir.join("tree"), target: dir.join("target") };
        fs::create_dir_all(&scratch.tree)?;
        fs::create_dir_all(&scratch.target)?;
        let agents = scratch.target.join("test-agents");
        if fs::symlink_metadata(&agents).is_err() {
            std::os::unix::fs::symlink(root.join("target/test-agents"), agents)?;
        }
        Ok(scratch)
    }

    /// Makes the copy the working tree with these bugs in it, and no others. What is the same is not touched, so that cargo
    /// builds little.
    pub(crate) fn plant(&self, mutants: &[&Mutant], switched: bool) -> Result<(), String> {
        let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
        for mutant in mutants {
            by_file.entry(&mutant.file).or_default().push(mutant);
        }
        let known = self.known()?;
        for name in &known {
            let (from, to) = (self.root.join(name), self.tree.join(name));
            let io = |error: io::Error| format!("{name}: {error}");
            let mut wanted = fs::read(&from).map_err(io)?;
            if let Some(mutants) = by_file.get(name.as_str()) {
                let text = String::from_utf8(wanted).map_err(|error| format!("{name}: {error}"))?;
                wanted = planted(&text, mutants, switched)?.into_bytes();
            }
            if fs::read(&to).is_ok_and(|there| there == wanted) {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&self.tree)).map_err(io)?;
            fs::write(&to, wanted).map_err(io)?;
            fs::set_permissions(&to, fs::metadata(&from).map_err(io)?.permissions()).map_err(io)?;
        }
        self.forget_others(&known)
    }

    /// The files of the working tree that git knows or would take.
    fn known(&self) -> Result<BTreeSet<String>, String> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let output = git.output().map_err(|error| format!("git: {error}"))?;
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = names.split('\0').filter(|name| !name.is_empty() && self.root.join(name).is_file());
        Ok(names.map(str::to_owned).collect())
    }

    /// Removes from the copy what is no more in the working tree.
    fn forget_others(&self, known: &BTreeSet<String>) -> Result<(), String> {
        let mut folders = vec![self.tree.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(|error| error.to_string())?.flatten() {
                let path = entry.path();
                let name = path.strip_prefix(&self.tree).map(|name| name.to_string_lossy().into_owned());
                if path.is_dir() {
                    if entry.file_name() != "target" {
                        folders.push(path);
                    }
                } else if name.is_ok_and(|name| !known.contains(&name) && name != "Cargo.lock") {
                    fs::remove_file(&path).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Builds what these tests need: themselves, and the programs where they start some.
    pub(crate) fn build_for(&self, arguments: &str) -> Ended {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let (named, only_lib) = match words[..] {
            ["--lib", ..] => (&words[..1], true),
            ["--test", _, ..] => (&words[..2], false),
            _ => (&words[..0], false),
        };
        let tests = self.cargo(&[&["test", "--workspace", "--no-run"], named].concat(), None, BUILD_LIMIT_S);
        if !tests.ok || only_lib {
            return tests;
        }
        self.cargo(&["build", "--workspace", "--bins"], None, BUILD_LIMIT_S)
    }

    /// Runs `cargo test --workspace` with these arguments, and the bug of this name switched on.
    pub(crate) fn test(&self, arguments: &str, switch: Option<&str>, limit_s: u64) -> Ended {
        let arguments: Vec<&str> = ["test", "--workspace"].into_iter().chain(arguments.split_whitespace()).collect();
        self.cargo(&arguments, switch, limit_s)
    }

    /// A bug may make a test wait for ever: then it ends at the limit.
    fn cargo(&self, arguments: &[&str], switch: Option<&str>, limit_s: u64) -> Ended {
        let began = Instant::now();
        let mut command = Command::new("timeout");
        command.args(["-k", "10", &limit_s.to_string(), "cargo"]).args(arguments).current_dir(&self.tree);
        command.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "0").env("CARGO_TERM_COLOR", "never");
        command.env_remove(VARIABLE).envs(switch.map(|name| (VARIABLE, name))).stdin(Stdio::null());
        match command.output() {
            Err(error) => {
                Ended { ok: false, hung: false, n_tests: 0, took: began.elapsed(), output: error.to_string() }
            }
            Ok(output) => {
                let text =
                    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                let n_tests = text.lines().filter_map(ran).sum();
                let hung = matches!(output.status.code(), Some(124 | 137) | None);
                Ended { ok: output.status.success(), hung, n_tests, took: began.elapsed(), output: text }
            }
        }
    }
}

/// `test result: ok. 3 passed; 0 failed; …`: how many ran.
fn ran(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = rest.split(word).next()?;
        before.split_whitespace().next_back()?.parse::<u64>().ok()
    };
    Some(number(" passed")? + number(" failed")?)
}
