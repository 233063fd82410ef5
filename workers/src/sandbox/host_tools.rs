//! Which tools of this host an embedded sandbox may use.
//!
//! The system's own directories show in every embedded sandbox. Toolchains that live below a home do not, and a home is
//! full of secrets; so only what is known to be a toolchain is shown, by the table below, and never a directory that
//! could hold a credential. Everything else is for the operator to name.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use super::HOME;

/// The directories of the host that a namespace sandbox may read, beyond the system's own.
#[derive(Debug, Clone, Default)]
pub struct HostTools {
    /// Read-only, at the same path inside.
    pub expose: Vec<PathBuf>,
    /// Caches of downloads, on the host and inside: what is written to them inside stays inside.
    pub caches: Vec<(PathBuf, PathBuf)>,
    path: Vec<PathBuf>,
    variables: BTreeMap<String, PathBuf>,
}

/// Prefixes whose programs show in every sandbox.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/nix/store", "/gnu/store"];
/// What every `PATH` inside ends with.
const SYSTEM_PATH: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A toolchain that installs itself below a home. All paths are relative to it.
struct Known {
    /// A directory on the `PATH` at or below this one tells that it is used.
    at: &'static str,
    /// What to show.
    show: &'static [&'static str],
    /// How its programs find it without the home.
    variable: Option<(&'static str, &'static str)>,
}

const KNOWN: &[Known] = &[
    Known { at: ".cargo/bin", show: &[".cargo/bin", ".rustup"], variable: Some(("RUSTUP_HOME", ".rustup")) },
    Known { at: ".pyenv", show: &[".pyenv"], variable: Some(("PYENV_ROOT", ".pyenv")) },
    Known { at: ".rbenv", show: &[".rbenv"], variable: Some(("RBENV_ROOT", ".rbenv")) },
    Known { at: ".asdf", show: &[".asdf"], variable: Some(("ASDF_DATA_DIR", ".asdf")) },
    Known { at: ".volta", show: &[".volta/bin", ".volta/tools"], variable: Some(("VOLTA_HOME", ".volta")) },
    Known { at: ".nvm/versions", show: &[".nvm/versions"], variable: None },
    Known { at: ".local/share/fnm", show: &[".local/share/fnm/node-versions"], variable: None },
    Known { at: ".local/share/mise", show: &[".local/share/mise/installs", ".local/share/mise/shims"], variable: None },
    Known { at: ".sdkman/candidates", show: &[".sdkman/candidates"], variable: None },
    Known { at: ".npm-global", show: &[".npm-global/bin", ".npm-global/lib"], variable: None },
    Known { at: ".bun/bin", show: &[".bun/bin"], variable: None },
    Known { at: ".deno/bin", show: &[".deno/bin"], variable: None },
    Known { at: ".ghcup/bin", show: &[".ghcup/bin", ".ghcup/ghc"], variable: None },
    Known { at: "go/bin", show: &["go/bin"], variable: None },
    Known { at: "sdk", show: &["sdk"], variable: None },
    Known { at: "miniconda3", show: &["miniconda3"], variable: None },
    Known { at: "miniforge3", show: &["miniforge3"], variable: None },
    Known { at: "anaconda3", show: &["anaconda3"], variable: None },
    Known {
        at: ".local/bin",
        show: &[
            ".local/bin",
            ".local/pipx/venvs",
            ".local/share/claude/versions",
            ".local/share/pipx/venvs",
            ".local/share/uv/python",
            ".local/share/uv/tools",
        ],
        variable: None,
    },
];

/// Caches of downloads below a home, and where the tools look for them inside.
const CACHES: &[(&str, &str)] = &[(".cargo/registry", ".cargo/registry"), ("go/pkg/mod", "go/pkg/mod")];

impl HostTools {
    /// What is worth showing of a user's tools, from the values of that user's `HOME` and `PATH`.
    pub fn detect(home: Option<&Path>, path: &str) -> Self {
        let mut tools = Self::default();
        let home = home.filter(|home| home.is_absolute() && home.parent().is_some());
        for entry in std::env::split_paths(path).filter(|entry| entry.is_absolute() && entry.is_dir()) {
            let real = entry.canonicalize().unwrap_or_else(|_| entry.clone());
            // A version manager may put a link to its real place on the path; what counts is where it leads.
            let known = |path: &Path| {
                let below = path.strip_prefix(home?).ok()?;
                KNOWN.iter().find(|known| below.starts_with(known.at))
            };
            let found = [&entry, &real].into_iter().find_map(|path| Some((path.clone(), known(path)?)));
            if is_system(&real) {
                tools.path.push(entry);
            } else if let (Some(home), Some((shown, known))) = (home, found) {
                tools.add_known(home, known);
                tools.path.push(shown);
            } else {
                tools.expose.extend(own_prefix(&real));
                // Not shown by itself; but whoever adds it to what is exposed wants its programs to be found.
                tools.path.push(real);
            }
        }
        if let Some(home) = home {
            let caches = CACHES.iter().map(|(from, to)| (home.join(from), Path::new(HOME).join(to)));
            tools.caches = caches.filter(|(from, _)| from.is_dir()).collect();
        }
        tools.expose.sort();
        tools.expose.dedup();
        tools
    }

    fn add_known(&mut self, home: &Path, known: &Known) {
        self.expose.extend(known.show.iter().map(|show| home.join(show)).filter(|path| path.is_dir()));
        if let Some((name, at)) = known.variable {
            self.variables.insert(name.to_owned(), home.join(at));
        }
    }

    /// The `PATH` of commands inside: of the one that was given to [`Self::detect`] what shows inside, then exposed
    /// directories of programs that were not on it, then the system's.
    pub fn path(&self) -> String {
        let shows = |path: &Path| is_system(path) || self.expose.iter().any(|exposed| path.starts_with(exposed));
        let given = self.path.iter().filter(|path| shows(path));
        let named = self.expose.iter().filter(|path| path.ends_with("bin"));
        let mut seen = HashSet::new();
        let all = given.chain(named).map(PathBuf::as_path).chain(SYSTEM_PATH.iter().map(Path::new));
        let parts: Vec<_> = all.filter(|part| seen.insert(*part)).map(|part| part.to_string_lossy()).collect();
        parts.join(":")
    }

    /// The variables that commands inside start with, `PATH` included. What tools write below a home goes to the one
    /// inside, by its `HOME`.
    pub fn env(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([("PATH".to_owned(), self.path())]);
        env.extend(self.variables.iter().map(|(name, at)| (name.clone(), at.to_string_lossy().into_owned())));
        env
    }
}

fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
}

/// The directory of an add-on package, whose programs are not below a home: `/opt/go` for `/opt/go/bin`.
fn own_prefix(path: &Path) -> Option<PathBuf> {
    let add_on =
        ["/opt", "/home/linuxbrew"].iter().find(|add_on| path.starts_with(add_on) && path != Path::new(add_on))?;
    let prefix = if path.ends_with("bin") { path.parent()? } else { path };
    Some(if prefix == Path::new(add_on) { path.to_owned() } else { prefix.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn home(dirs: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for dir in dirs {
            fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        home
    }

    fn path_of(home: &Path, dirs: &[&str]) -> String {
        let dirs: Vec<_> = dirs.iter().map(|dir| home.join(dir).to_string_lossy().into_owned()).collect();
        format!("{}:/usr/bin:relative:/does/not/exist", dirs.join(":"))
    }

    #[test]
    fn known_toolchains_are_shown_and_found_without_the_home() {
        let home = home(&[".cargo/bin", ".cargo/registry", ".rustup/toolchains", ".pyenv/shims", ".ssh", ".config"]);
        let tools = HostTools::detect(Some(home.path()), &path_of(home.path(), &[".cargo/bin", ".pyenv/shims"]));
        let at = |path: &str| home.path().join(path);
        assert_eq!(tools.expose, [at(".cargo/bin"), at(".pyenv"), at(".rustup")]);
        assert_eq!(tools.caches, [(at(".cargo/registry"), PathBuf::from("/home/onramp/.cargo/registry"))]);
        let env = tools.env();
        assert_eq!(Path::new(&env["RUSTUP_HOME"]), at(".rustup"));
        assert_eq!(Path::new(&env["PYENV_ROOT"]), at(".pyenv"));
        let start = format!("{}:{}:/usr/bin:", at(".cargo/bin").display(), at(".pyenv/shims").display());
        assert!(env["PATH"].starts_with(&start) && env["PATH"].ends_with(":/sbin:/bin"), "{}", env["PATH"]);
    }

    #[test]
    fn nothing_is_shown_that_could_hold_a_secret() {
        let home =
            home(&[".ssh", ".config/bin", "bin", "project/bin", ".local/bin", ".local/share/keyrings", ".cargo/bin"]);
        fs::write(home.path().join(".cargo/credentials.toml"), "token").unwrap();
        let path = path_of(home.path(), &["", ".ssh", ".config/bin", "bin", "project/bin", ".local/bin", ".cargo/bin"]);
        let tools = HostTools::detect(Some(home.path()), &path);
        assert_eq!(tools.expose, [".cargo/bin", ".local/bin"].map(|path| home.path().join(path)));
    }

    #[test]
    fn a_version_managers_link_leads_to_the_version() {
        let home = home(&[".local/share/fnm/node-versions/v22/installation/bin", "run"]);
        let version = home.path().join(".local/share/fnm/node-versions/v22/installation");
        let link = home.path().join("run/multishell");
        std::os::unix::fs::symlink(&version, &link).unwrap();
        let tools = HostTools::detect(Some(home.path()), &link.join("bin").to_string_lossy());
        assert_eq!(tools.expose, [home.path().join(".local/share/fnm/node-versions")]);
        assert!(tools.path().starts_with(&*version.join("bin").to_string_lossy()), "{}", tools.path());
    }

    #[test]
    fn without_a_home_only_the_systems_tools_remain() {
        for home in [None, Some(Path::new("/"))] {
            let tools = HostTools::detect(home, "/usr/bin:/usr/bin:/etc:/tmp");
            assert!(tools.expose.is_empty() && tools.caches.is_empty());
            assert_eq!(tools.path(), "/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin");
        }
    }

    #[test]
    fn what_the_operator_exposes_is_found() {
        let home = home(&["agents/bin", "other/bin"]);
        let mut tools = HostTools::detect(Some(home.path()), &path_of(home.path(), &["agents/bin", "other/bin"]));
        assert!(tools.expose.is_empty());
        tools.expose.extend([home.path().join("agents"), PathBuf::from("/srv/bin"), PathBuf::from("/srv/lib")]);
        let agents = home.path().join("agents/bin");
        let expected = format!("{}:/usr/bin:/srv/bin:/usr/local/sbin:", agents.display());
        assert!(tools.path().starts_with(&expected), "{}", tools.path());
    }

    #[test]
    fn an_add_on_is_shown_whole_and_never_the_directory_of_all_of_them() {
        let prefix = |path: &str| own_prefix(Path::new(path)).map(|prefix| prefix.to_string_lossy().into_owned());
        assert_eq!(prefix("/opt/go/bin").as_deref(), Some("/opt/go"));
        assert_eq!(prefix("/opt/bin").as_deref(), Some("/opt/bin"));
        assert_eq!(prefix("/opt/cuda/bin/extra").as_deref(), Some("/opt/cuda/bin/extra"));
        assert_eq!(prefix("/home/linuxbrew/.linuxbrew/bin").as_deref(), Some("/home/linuxbrew/.linuxbrew"));
        for other in ["/opt", "/home/somebody/bin", "/etc", "/var/lib/x/bin"] {
            assert_eq!(prefix(other), None, "{other}");
        }
    }
}
