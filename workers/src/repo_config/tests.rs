use super::*;
use crate::{
    policy::{
        Rule,
        rules::{PROTECTED, WORKFLOWS},
    },
    sandbox::FileKind,
};

fn file(path: &str, text: &str) -> TreeFile {
    TreeFile { path: path.into(), kind: FileKind::Regular, bytes: text.into() }
}

fn detected(files: &[(&str, &str)]) -> Result<RepoConfig, Failure> {
    let tree: Vec<_> = files.iter().map(|(path, text)| file(path, text)).collect();
    RepoConfig::load(None, &tree)
}

fn origin(files: &[(&str, &str)]) -> String {
    detected(files).map_or_else(|failure| failure.code.to_string(), |config| config.origin)
}

fn load(text: &str) -> RepoConfig {
    RepoConfig::load(Some(text.as_bytes()), &[]).unwrap()
}

fn wrong(text: &str) -> String {
    let failure = RepoConfig::load(Some(text.as_bytes()), &[]).unwrap_err();
    assert_eq!(failure.code, Code::BadRepoConfig);
    failure.message.strip_prefix("`.onramp.toml` cannot be used: ").unwrap().to_owned()
}

const CHECK: &str = "version = 1\n[[check]]\nname = \"test\"\ncommand = \"true\"\n";

#[test]
fn every_key_arrives_where_it_is_used() {
    let config = load(
        r#"
version = 1
[environment]
image = "rust:1.91"
setup = ["cargo fetch"]
env = { RUST_BACKTRACE = "1" }
prebuild = ["cargo test --no-run"]
rebuild_on = ["rust-toolchain.toml"]
gpu = ["h100", "a100:2"]
agent_gpu = true
[[check]]
name = "test"
command = "cargo test --locked"
timeout = "1h30m"
[[check]]
name = "lint"
command = "cargo clippy"
required = false
[[check]]
name = "kernels"
command = "cargo test --features cuda"
gpu = true
[[check]]
name = "large"
command = "cargo bench"
gpu = { min_vram = "80GiB" }
[limits]
time = "20m"
idle = "90s"
rounds = 5
memory = "8GiB"
cpus = 1.5
pids = 99
disk = "1GiB"
[policy]
protected = ["migrations/**"]
unprotect = ["**/AGENTS.md"]
allowed = ["src/**"]
max_files = 7
max_bytes = "64KiB"
binaries = true
[pull_request]
draft = true
labels = ["bot"]
reviewers = ["ada"]
branch = "bot/{slug}-{id}"
trailers = ["Co-authored-by: {requester} <{requester_id}+{requester}@users.noreply.github.com>"]
template = "docs/pr.md"
section = "Description"
[network]
allow = ["Example.com", ".example.org"]
"#,
    );
    assert_eq!(config.origin, ".onramp.toml");
    assert_eq!(config.environment.image.as_deref(), Some("rust:1.91"));
    assert_eq!(config.environment.setup, ["cargo fetch"]);
    assert_eq!(config.environment.env["RUST_BACKTRACE"], "1");
    assert_eq!(config.environment.prebuild, ["cargo test --no-run"]);
    assert_eq!(config.environment.rebuild_on, ["rust-toolchain.toml"]);
    assert_eq!(config.environment.gpu.as_ref().unwrap().to_string(), "h100, a100:2");
    assert!(config.environment.agent_gpu);
    let gpus: Vec<_> = config.checks.iter().map(|c| c.gpu.as_ref().map(ToString::to_string)).collect();
    assert_eq!(gpus, [None, None, Some("h100, a100:2".to_owned()), Some("min_vram=80GiB".to_owned())]);
    let checks: Vec<_> = config.checks[..2]
        .iter()
        .map(|c| (c.name.as_str(), c.command.as_str(), c.timeout.as_secs(), c.required))
        .collect();
    assert_eq!(checks, [("test", "cargo test --locked", 5400, true), ("lint", "cargo clippy", 900, false)]);
    let limits = &config.limits;
    assert_eq!((limits.time.as_secs(), limits.idle.as_secs(), limits.rounds), (1200, 90, 5));
    assert_eq!(limits.sandbox, Limits { cpus: 1.5, memory_bytes: 8 << 30, pids: 99, disk_bytes: 1 << 30 });
    let policy = &config.policy;
    assert!(
        policy.protected.contains(&"migrations/**".to_owned()) && policy.protected.contains(&"CODEOWNERS".to_owned())
    );
    assert!(!policy.protected.contains(&"**/AGENTS.md".to_owned()));
    assert_eq!((policy.max_files, policy.max_bytes, policy.action(Rule::Binary)), (7, 65_536, Action::Note));
    assert_eq!(policy.allowed, [["src/**"]]);
    assert_eq!(config.pull_request.draft, Draft::Always);
    assert_eq!(
        (&config.pull_request.labels[..], &config.pull_request.reviewers[..]),
        (&["bot".into()][..], &["ada".into()][..])
    );
    let PullRequestOptions { branch, trailers, template, section, .. } = &config.pull_request;
    assert_eq!((branch.as_str(), trailers.len(), section.as_deref()), ("bot/{slug}-{id}", 1, Some("Description")));
    assert_eq!(*template, PullRequestTemplate::At("docs/pr.md".into()));
    assert_eq!(config.network.allow, ["example.com", ".example.org"]);
}

#[test]
fn names_of_branches_and_trailers_are_checked_and_nobody_is_signed_off_for() {
    for (line, part) in [
        ("branch = \"bot/{slug}\"", "does not end in {id}"),
        ("branch = \"bot/{title}-{id}\"", "{issue}, {slug}, {id}"),
        ("branch = \"-x/{id}\"", "makes no name of a branch"),
        ("branch = \"a b/{id}\"", "makes no name of a branch"),
        ("branch = \"bot/{slug-{id}\"", "has {slug-{id}"),
        ("trailers = [\"signed-off-BY: {requester} <a@b>\"]", "only a person can sign off"),
        ("trailers = [\"Task-Id: 1\"]", "by itself"),
        ("trailers = [\"Requested-by\"]", "Name: value"),
        ("trailers = [\"A: b\\nSigned-off-by: c\"]", "on one line"),
        ("trailers = [\"A: {email}\"]", "{agent}, {requester}, {requester_id}"),
        ("template = 5", "template is true, false or the path"),
        ("template = \"../x\"", "template is true, false or the path"),
    ] {
        let failure = RepoConfig::load(Some(format!("{CHECK}[pull_request]\n{line}\n").as_bytes()), &[]).unwrap_err();
        let shown = format!("{} {}", failure.message, failure.detail.unwrap_or_default());
        assert!(shown.contains(part), "{line}: {shown}");
    }
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = load(CHECK);
    assert_eq!((config.limits.time.as_secs(), config.limits.idle.as_secs(), config.limits.rounds), (2700, 600, 3));
    assert_eq!(config.limits.sandbox, Limits::default());
    let policy = &config.policy;
    assert_eq!((policy.protected.len(), policy.workflows.len()), (PROTECTED.len(), WORKFLOWS.len()));
    assert_eq!((policy.max_files, policy.max_bytes, policy.action(Rule::Binary)), (100, 4 << 20, Action::Block));
    assert!(config.network.allow.is_empty() && config.environment.setup.is_empty() && config.environment.gpu.is_none());
    assert!(load(&format!("{CHECK}[environment]\ngpu = false")).environment.gpu.is_none());
}

#[test]
fn a_gpu_is_asked_for_in_one_grammar_everywhere() {
    let gpu = |value: &str| {
        let config = load(&format!("{CHECK}gpu = true\n[environment]\ngpu = {value}"));
        assert!(config.checks[0].gpu.is_some(), "{value}");
        config.environment.gpu.map(|gpu| gpu.to_string())
    };
    assert_eq!(gpu("false"), None);
    assert_eq!(gpu("0"), None);
    assert_eq!(gpu("true").as_deref(), Some("any"));
    assert_eq!(gpu("2").as_deref(), Some("any:2"));
    assert_eq!(gpu("\"H100!\"").as_deref(), Some("h100!"));
    assert_eq!(gpu("{ min_vram = \"40GiB\", count = 2 }").as_deref(), Some("min_vram=40GiB:2"));
    let of_check = |value: &str| load(&format!("{CHECK}gpu = {value}")).checks[0].gpu.as_ref().map(ToString::to_string);
    assert_eq!(of_check("false"), None);
    assert_eq!(of_check("true").as_deref(), Some("any"), "without one in the environment, any will do");
    assert_eq!(of_check("[\"h100\", \"a100:2\"]").as_deref(), Some("h100, a100:2"));

    let after = |more: &str| wrong(&format!("{CHECK}{more}"));
    insta::assert_snapshot!(after("gpu = \"h100:9\""), @r#"line 5, column 7: "h100:9" is no GPU: `9` at position 6: the number of GPUs is between 1 and 8"#);
    insta::assert_snapshot!(after("gpu = 9"), @"line 5, column 7: 9 is out of range; GPUs are between 0 and 8");
    insta::assert_snapshot!(after("[environment]\ngpu = [\"h100\", \"a100;2\"]"), @r#"line 6, column 16: "a100;2" is no GPU: `a100;2` at position 1: ';' is in no name of a model; write it like h100 or a100-80gb"#);
    insta::assert_snapshot!(after("[environment]\ngpu = {vram = \"1GiB\"}"), @"line 6, column 8: there is no `vram` in [environment]; known are `min_vram` and `count`");
    insta::assert_snapshot!(after("[environment]\ngpu = \"h100\""), @"[environment] gpu asks for a GPU (h100) that nothing would use; set `gpu = true` in each [[check]] that needs it, or `agent_gpu = true` for the agent");
}

#[test]
fn variables_that_steer_the_toolkit_never_come_from_a_repository() {
    for name in ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD"] {
        let said = wrong(&format!("{CHECK}[environment]\nenv = {{ {name} = \"all\" }}"));
        assert!(said.contains(&format!("{name} cannot be set here: ")), "{said}");
    }
}

#[test]
fn no_dangerous_switch_can_be_expressed_and_the_answer_says_why() {
    for (key, why) in [
        ("privileged = true", "own the host"),
        ("cap_add = [\"ALL\"]", "own the host"),
        ("sysctls = { }", "own the host"),
        ("network_mode = \"host\"", "[network] allow"),
        ("pid = \"host\"", "sharing the host's"),
        ("ipc_mode = \"host\"", "sharing the host's"),
        ("userns = \"host\"", "sharing the host's"),
        ("uts_mode = \"host\"", "sharing the host's"),
        ("volumes = [\"/:/host\"]", "nothing of the host is mounted"),
        ("mounts = [\"type=bind\"]", "nothing of the host is mounted"),
        ("binds = [\"/var/run/docker.sock\"]", "nothing of the host is mounted"),
        ("devices = [\"/dev/nvidia0\"]", "a GPU is asked for with `gpu`"),
        ("security_opt = [\"apparmor=unconfined\"]", "always on"),
        ("seccomp = \"unconfined\"", "always on"),
        ("docker_socket = true", "owns the host"),
        ("docker_args = \"--privileged\"", "have keys of their own"),
        ("user = \"root\"", "unprivileged user"),
        ("ulimits = { }", "[limits]"),
    ] {
        for place in ["", "[environment]\n", "[limits]\n"] {
            let said = wrong(&format!("{CHECK}{place}{key}"));
            assert!(said.contains("there is no `") && said.contains(why), "{place}{key}: {said}");
        }
    }
    // The runtime is the operator's choice; a repository cannot weaken it.
    assert!(wrong(&format!("{CHECK}[environment]\nruntime = \"unconfined\"")).contains("there is no `runtime`"));
    for image in ["--privileged alpine", "-v/:/host", "alpine --network=host"] {
        assert!(wrong(&format!("{CHECK}[environment]\nimage = \"{image}\"")).contains("is not the name of an image"));
    }
}

#[test]
fn a_mistake_is_placed_and_answered_with_what_is_right() {
    let after = |more: &str| wrong(&format!("{CHECK}{more}"));
    insta::assert_snapshot!(after("tiemout = \"5m\""), @"line 5, column 1: there is no `tiemout` in [[check]]; did you mean `timeout`?");
    insta::assert_snapshot!(after("[polcy]\nbinaries = true"), @"line 5, column 2: there is no `polcy`; did you mean `policy`?");
    insta::assert_snapshot!(after("[checks]\nname = \"x\""), @"line 5, column 2: there is no `checks`; did you mean `check`?");
    insta::assert_snapshot!(after("timeout = \"5 minutes\""), @r#"line 5, column 11: "5 minutes" is not a duration; write it like "90s", "15m" or "1h30m""#);
    insta::assert_snapshot!(after("timeout = 300"), @r#"line 5, column 11: invalid type: integer `300`, expected a duration such as "15m""#);
    insta::assert_snapshot!(after("timeout = \"48h\""), @r#"line 5, column 11: "48h" is out of range; a time is between "1s" and "24h""#);
    insta::assert_snapshot!(after("[limits]\nmemory = \"4G\""), @r#"line 6, column 10: "4G" is not a size; write it like "4GiB", "512MiB" or "64KiB""#);
    insta::assert_snapshot!(after("[limits]\nmemory = \"1KiB\""), @r#"line 6, column 10: "1KiB" is out of range; a sandbox needs at least "16MiB""#);
    insta::assert_snapshot!(after("[limits]\nrounds = 0"), @"line 6, column 10: 0 is out of range; it is between 1 and 10");
    insta::assert_snapshot!(after("[limits]\nrounds = -3"), @"line 6, column 10: -3 is out of range; it is between 1 and 10");
    insta::assert_snapshot!(after("[limits]\ncpus = 0"), @"line 6, column 8: 0 is out of range; CPUs are between 0.1 and 1024");
    insta::assert_snapshot!(after("[policy]\nprotected = [\"a\", \"/etc\"]"), @r#"line 6, column 19: "/etc" cannot match; globs start at the top of the repository: write "etc""#);
    insta::assert_snapshot!(after("[policy]\nallowed = [\"src/\"]"), @r#"line 6, column 12: "src/" matches no file; write "src/**" for everything below it"#);
    insta::assert_snapshot!(after("[policy]\nallowed = [\"{a\"]"), @r#"line 6, column 12: "{a" is not a glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)"#);
    insta::assert_snapshot!(after("[policy]\nunprotect = [\"AGENTS.md\"]"), @r#"line 6, column 14: "AGENTS.md" is not among the globs that are protected in every repository; did you mean "**/AGENTS.md"?"#);
    insta::assert_snapshot!(after("[network]\nallow = [\"https://example.com/\"]"), @r#"line 6, column 10: "https://example.com/" is not a host; leave the scheme and the path out"#);
    insta::assert_snapshot!(after("[environment]\nenv = { \"A B\" = \"1\" }"), @r#"line 6, column 9: "A B" is not the name of an environment variable; use letters, digits and _"#);
    insta::assert_snapshot!(after("[environment]\nimage = \"a\"\ndockerfile = \"b\""), @"line 7, column 14: `image` and `dockerfile` exclude each other; keep the one that is meant");
    insta::assert_snapshot!(after("[environment]\ndockerfile = \"../b\""), @r#"line 6, column 14: "../b" lies outside of the repository; give a path from its top"#);
    insta::assert_snapshot!(after("[[check]]\nname = \"test\"\ncommand = \"x\""), @r#"line 6, column 8: two checks are called "test"; each needs its own name"#);
    insta::assert_snapshot!(after("[[check]]\nname = \"../x\"\ncommand = \"x\""), @r#"line 6, column 8: "../x" is not a name for a check; use up to 60 letters, digits, spaces and ._/:+-"#);
    insta::assert_snapshot!(after("[[check]]\nname = \"x\"\ncommand = \" \""), @"line 7, column 11: the command is empty; write what `sh -c` is to run");
    insta::assert_snapshot!(after("[[check]]\nname = \"x\""), @"line 5, column 1: missing field `command`");
    insta::assert_snapshot!(wrong("version = 2"), @"line 1, column 11: version 2 is not known here; this Onramp reads version 1");
    insta::assert_snapshot!(wrong("[limits]"), @"line 1, column 1: missing field `version`");
}

#[test]
fn broken_bytes_are_refused_in_words() {
    assert!(wrong("version = ").starts_with("line 1, column "));
    let failure = RepoConfig::load(Some(b"version = 1\xff"), &[]).unwrap_err();
    assert_eq!(failure.message, "`.onramp.toml` cannot be used: byte 11 is not UTF-8");
    assert!(wrong(&"#".repeat(300_000)).contains("at most 262144 are read"));
}

#[test]
fn checks_are_detected_from_the_files_at_the_top() {
    insta::assert_snapshot!(origin(&[("Cargo.lock", ""), ("Cargo.toml", "")]), @"detected: Cargo.toml (cargo test --locked)");
    insta::assert_snapshot!(origin(&[("Cargo.toml", "")]), @"detected: Cargo.toml (cargo test)");
    insta::assert_snapshot!(origin(&[("go.mod", "")]), @"detected: go.mod (go build ./... && go test ./...)");
    insta::assert_snapshot!(origin(&[("pyproject.toml", "[tool.pytest.ini_options]")]), @"detected: pyproject.toml (python3 -m pytest)");
    insta::assert_snapshot!(origin(&[("requirements-dev.txt", "pytest==8")]), @"detected: requirements-dev.txt (python3 -m pytest)");
    insta::assert_snapshot!(origin(&[("tests/conftest.py", "")]), @"detected: tests/conftest.py (python3 -m pytest)");
    insta::assert_snapshot!(origin(&[("calc.py", ""), ("test_calc.py", "")]), @"detected: test_calc.py (python3 -m unittest discover)");
    insta::assert_snapshot!(origin(&[("tests/test_calc.py", "")]), @"detected: tests/ (python3 -m unittest discover -s tests)");
    insta::assert_snapshot!(origin(&[("tests/__init__.py", ""), ("tests/a/test_calc.py", "")]), @"detected: tests/ (python3 -m unittest discover)");
    insta::assert_snapshot!(origin(&[("Makefile", "all: x\n\tcc x\nlint test: all\n\t./t")]), @"detected: Makefile (make test)");
    insta::assert_snapshot!(origin(&[("Makefile", "check:\n\t./t")]), @"detected: Makefile (make check)");
    insta::assert_snapshot!(
        origin(&[("Cargo.toml", ""), ("test_x.py", ""), ("Makefile", "test:\n\tcargo test")]),
        @"detected: Cargo.toml (cargo test), test_x.py (python3 -m unittest discover)"
    );
}

#[test]
fn what_the_checks_would_build_is_built_into_the_base() {
    let prebuild = |files: &[(&str, &str)]| detected(files).unwrap().environment.prebuild;
    assert_eq!(prebuild(&[("Cargo.toml", ""), ("Cargo.lock", "")]), ["cargo test --locked --no-run"]);
    assert_eq!(prebuild(&[("Cargo.toml", "")]), ["cargo test --no-run"]);
    assert!(prebuild(&[("test_calc.py", "")]).is_empty());
    let tree = [file("Cargo.toml", "")];
    let load = |text: &str| RepoConfig::load(Some(text.as_bytes()), &tree).unwrap().environment.prebuild;
    assert_eq!(load("version = 1"), ["cargo test --no-run"]);
    assert!(load("version = 1\n[environment]\nprebuild = []").is_empty(), "an empty list is an answer");
    assert!(load(CHECK).is_empty(), "whoever names the checks names what they need");
}

#[test]
fn a_javascript_project_is_installed_by_its_own_lock_file() {
    let package = r#"{"scripts": {"test": "node --test"}, "devDependencies": {"x": "1"}}"#;
    let found = |lock: &str| {
        let config = detected(&[("package.json", package), (lock, "")]).unwrap();
        (config.environment.setup.join("; "), config.checks[0].command.clone())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(found("package-lock.json"), pair("npm ci", "npm test"));
    assert_eq!(found("pnpm-lock.yaml"), pair("pnpm install --frozen-lockfile", "pnpm test"));
    assert_eq!(found("yarn.lock"), pair("yarn install --frozen-lockfile", "yarn test"));
    assert_eq!(found("README"), pair("", "npm test"));
    let bare = detected(&[("package.json", r#"{"scripts": {"test": "node t"}}"#), ("package-lock.json", "")]).unwrap();
    assert!(bare.environment.setup.is_empty(), "nothing to install, so the network is not needed");
}

#[test]
fn nothing_to_check_with_is_said_and_never_guessed() {
    let placeholder = r#"{"scripts": {"test": "echo \"Error: no test specified\" && exit 1"}}"#;
    for files in [
        &[][..],
        &[("README.md", "")],
        &[("package.json", placeholder)],
        &[("package.json", "{broken")],
        &[("Makefile", "test := 1\n.PHONY: test\nall:\n\ttest: no")],
        &[("sub/Cargo.toml", "")],
        &[("pyproject.toml", "[project]"), ("app.py", "")],
    ] {
        assert_eq!(origin(files), "E041", "{files:?}");
    }
    let failure = RepoConfig::load(Some(b"version = 1"), &[]).unwrap_err();
    assert_eq!(failure.code, Code::NoChecks);
}

#[test]
fn a_file_without_checks_gets_the_detected_ones() {
    let package = r#"{"scripts": {"test": "node t"}, "dependencies": {"x": "1"}}"#;
    let tree = [file("package.json", package), file("package-lock.json", "{}")];
    let config = RepoConfig::load(Some(b"version = 1"), &tree).unwrap();
    assert_eq!(config.origin, ".onramp.toml; checks detected: package.json (npm test)");
    assert_eq!(config.environment.setup, ["npm ci"]);
    let config = RepoConfig::load(Some(b"version = 1\n[environment]\nsetup = []"), &tree).unwrap();
    assert!(config.environment.setup.is_empty(), "an empty list is an answer");
}

#[test]
fn a_link_is_not_taken_for_the_file_it_is_named_after() {
    let link = TreeFile { path: "Cargo.toml".into(), kind: FileKind::Symlink, bytes: "/etc/passwd".into() };
    assert_eq!(RepoConfig::load(None, &[link]).unwrap_err().code, Code::NoChecks);
}

#[test]
fn every_default_glob_is_valid() {
    for pattern in PROTECTED {
        glob(pattern, true).unwrap();
    }
}

#[test]
fn the_committed_schema_is_the_one_that_the_code_means() {
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/onramp.schema.json")).unwrap();
    let meant = json_schema();
    let difference = similar::TextDiff::from_lines(&committed, &meant).unified_diff().to_string();
    assert!(
        committed == meant,
        "docs/onramp.schema.json is stale; write it anew: cargo run -- schema > docs/onramp.schema.json\n{difference}"
    );
}
