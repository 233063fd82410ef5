//! What hostile code would try, tried: `probes/program.rs` runs inside sandboxes of both kinds, where all of it must be
//! refused, and in a container as `docker run` makes it by default, to see that the probes can tell the difference.
//!
//! The table of all verdicts:
//! `cargo test --workspace --test sandbox nothing_that_hostile_code_tries -- --nocapture`

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{SocketAddr, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use tasks::Limit;
use workers::sandbox::{
    Command, FileKind, HostTools, Sandbox, SandboxBackend, SandboxSpec, TreeFile, namespace::NamespaceBackend,
};

use crate::{
    docker,
    suite::{Backend, run, sh, spec},
};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sandbox/probes");
/// Where the compiled program is, for a test that cannot compile it.
const PROGRAM: &str = "ONRAMP_TEST_PROBE";
const NOBODY: u32 = 65_534;
/// A link-local address that stands in for the one where clouds give out credentials. Nobody has it.
const METADATA: &str = "169.254.77.77";
/// Every list is longer than this, and a container that is not hardened lets at least so many through.
const ENOUGH_PROBES: usize = 60;
const ENOUGH_LEAKS: usize = 12;

#[expect(clippy::disallowed_methods, reason = "how one test tells another where the program is")]
fn compiled_before() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).map(PathBuf::from)
}

/// Compiles the probes into a static program, once for each state of their source.
fn program() -> PathBuf {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| compiled_before().unwrap_or_else(compile));
    PROGRAM.clone()
}

fn compile() -> PathBuf {
    compiled("program")
}

/// One of the programs in `probes/`, compiled.
pub(crate) fn compiled(name: &str) -> PathBuf {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let source = Path::new(SOURCES).join(format!("{name}.rs"));
    let mut hasher = DefaultHasher::new();
    (std::fs::read(&source).unwrap(), include_bytes!("probes/acts.rs")).hash(&mut hasher);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probes-{name}-{:016x}", hasher.finish()));
    if path.exists() {
        return path;
    }
    let fresh = path.with_extension(std::process::id().to_string());
    let output = std::process::Command::new("rustc")
        .arg(&source)
        .args(["--edition", "2024", "--crate-name", "probes", "-C", "target-feature=+crt-static"])
        .args(["-C", "opt-level=1", "-C", "panic=abort", "-C", "strip=symbols", "-o"])
        .arg(&fresh)
        .output()
        .expect("rustc is on the PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&fresh, &path).unwrap();
    path
}

/// What is there to be reached, by those who can.
struct Canaries {
    dir: tempfile::TempDir,
    marker: String,
    listener: TcpListener,
    _hidden: UnixListener,
    stand_in: Option<StandIn>,
}

/// The stand-in's address on this host, for as long as this lives.
struct StandIn;

impl StandIn {
    fn new() -> Option<Self> {
        let added = ip(&["addr", "add", &format!("{METADATA}/32"), "dev", "lo"]);
        added.then_some(Self)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        ip(&["addr", "del", &format!("{METADATA}/32"), "dev", "lo"]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let status = std::process::Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Canaries {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("canary"), "of the host").unwrap();
        let marker = format!("canary-{}", std::process::id());
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&marker).unwrap()).unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        Self { dir, marker, listener, _hidden: hidden, stand_in: StandIn::new() }
    }

    fn arguments(&self, bridge: &str) -> Vec<String> {
        let port = self.listener.local_addr().unwrap().port();
        let metadata = if self.stand_in.is_some() { METADATA } else { bridge };
        // The names alone: a sandbox has none of the variables that the worker has and that mean something.
        let common = ["PATH", "HOME", "LANG", "TERM", "PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME"];
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let names: Vec<String> = names.filter(|name| !common.contains(&name.as_str())).collect();
        assert!(!names.is_empty(), "the worker has an environment that could leak");
        vec![
            format!("names={}", names.join(",")),
            format!("marker={}", self.marker),
            format!("abstract={}", self.marker),
            format!("file={}", self.dir.path().join("canary").display()),
            format!("metadata={metadata}:{port}"),
            format!("host={bridge}:{port}"),
            format!("loopback=127.0.0.1:{port}"),
        ]
    }

    /// Another sandbox, with files and a process that must not be seen from the first one.
    async fn neighbour(&self, backend: Backend) -> Sandbox {
        let sandbox = Sandbox::start(backend, &spec(None)).await.unwrap();
        let marker = &self.marker;
        let line = format!(
            "for dir in /workspace /tmp /dev/shm /run ~; do echo secret >$dir/{marker}; done
            (setsid sh -c 'sleep 1000; : {marker}' >/dev/null 2>&1 </dev/null &)"
        );
        sh(&sandbox, &line).await;
        sandbox
    }
}

/// Name, whether it was allowed, and why or what.
type Verdicts = BTreeMap<String, (bool, String)>;

fn verdicts(said: &[u8]) -> Verdicts {
    let said = String::from_utf8_lossy(said);
    let verdicts: Verdicts = said
        .lines()
        .map(|line| match line.split('\t').collect::<Vec<_>>().as_slice() {
            [name, verdict @ ("allowed" | "refused"), text] => {
                ((*name).to_owned(), (*verdict == "allowed", (*text).to_owned()))
            }
            _ => panic!("no verdict: {line}"),
        })
        .collect();
    assert!(verdicts.len() >= ENOUGH_PROBES, "only {} probes: {said}", verdicts.len());
    assert_eq!(verdicts.len(), said.lines().count(), "a name stands twice");
    verdicts
}

fn leaks(verdicts: &Verdicts) -> Vec<String> {
    let leaks = verdicts.iter().filter(|(_, (allowed, _))| *allowed);
    leaks.map(|(name, (_, what))| format!("{name}: {what}")).collect()
}

/// Runs all probes in a sandbox, and then something else, because it must still be there.
async fn probe(backend: Backend, spec: &SandboxSpec, program: &str, canaries: &Canaries, bridge: &str) -> Verdicts {
    let neighbour = canaries.neighbour(Arc::clone(&backend)).await;
    let sandbox = Sandbox::start(backend, spec).await.unwrap();
    if program.starts_with("/workspace/") {
        let bytes = std::fs::read(self::program()).unwrap();
        let path = program.trim_start_matches("/workspace/").into();
        sandbox.put(vec![TreeFile { path, kind: FileKind::Executable, bytes }]).await.unwrap();
    }
    let argv = [vec![program.to_owned()], canaries.arguments(bridge)].concat();
    let command = Command { argv, ..Command::shell("", Duration::from_secs(60)) };
    let (exit, stdout, stderr) = run(&sandbox, &command).await;
    assert!(exit.success(), "{exit:?} {}", String::from_utf8_lossy(&stderr));
    assert_eq!(sh(&sandbox, "echo alive").await, "alive");
    sandbox.stop().await.unwrap();
    neighbour.stop().await.unwrap();
    verdicts(&stdout)
}

async fn docker_program(arguments: &[&str]) -> Vec<u8> {
    let output = tokio::process::Command::new("docker").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The host's address on the engine's bridge. An engine does not name it as the gateway before its first restart: then it
/// is the first address of the subnet.
async fn bridge() -> String {
    let format = "{{with index .IPAM.Config 0}}{{.Gateway}} {{.Subnet}}{{end}}";
    let said = String::from_utf8(docker_program(&["network", "inspect", "bridge", "--format", format]).await).unwrap();
    let (gateway, subnet) = said.trim_end().split_once(' ').expect("two words");
    if !gateway.is_empty() {
        return gateway.to_owned();
    }
    let network: std::net::Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
    std::net::Ipv4Addr::from(u32::from(network) + 1).to_string()
}

/// An image with the probes in it, once more as a program that belongs to root and has the setuid bit.
async fn image(backend: &dyn SandboxBackend) -> String {
    let bytes = std::fs::read(program()).unwrap();
    let dockerfile = format!("FROM {}\nCOPY probe /probe\nCOPY suid-probe /suid-probe\n", docker::IMAGE);
    let mut context = tar::Builder::new(Vec::new());
    for (name, mode, content) in [
        ("Dockerfile", 0o644, dockerfile.as_bytes()),
        ("probe", 0o755, bytes.as_slice()),
        ("suid-probe", 0o4755, bytes.as_slice()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        context.append_data(&mut header, name, content).unwrap();
    }
    let tag = format!("onramp-test/probe:{}", std::process::id());
    backend.build_image(Bytes::from(context.into_inner().unwrap()), "Dockerfile", &tag).await.unwrap();
    tag
}

fn namespace_backend(root: &tempfile::TempDir) -> Backend {
    let backend = NamespaceBackend::new(root.path().join("boxes"), HostTools::default(), false);
    Arc::new(backend.accept_without(Limit::ALL))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_hostile_code_tries_gets_through() {
    let (root, canaries) = (tempfile::tempdir().unwrap(), Canaries::new());
    let Some(engine) = docker::docker_backend().await else {
        let embedded = in_namespaces(&root, &canaries).await;
        return assert_eq!(leaks(&embedded), [""; 0], "in namespaces");
    };
    let bridge = bridge().await;
    let image = image(&*engine).await;
    let by_default = async {
        let name = format!("onramp-test-default-{}", std::process::id());
        let mut arguments = vec!["run", "--rm", "--name", &name, &image, "/probe"];
        let more = canaries.arguments(&bridge);
        arguments.extend(more.iter().map(String::as_str));
        verdicts(&docker_program(&arguments).await)
    };
    let spec = spec(Some(&image));
    let (embedded, container, default) =
        tokio::join!(in_namespaces(&root, &canaries), probe(engine, &spec, "/probe", &canaries, &bridge), by_default,);
    docker_program(&["image", "rm", &image]).await;

    println!("{:<48} {:<10} {:<10} default container", "probe", "namespace", "docker");
    let word = |verdicts: &Verdicts, name: &str| if verdicts[name].0 { "ALLOWED" } else { "refused" };
    for (name, (_, what)) in &default {
        let (first, second, third) = (word(&embedded, name), word(&container, name), word(&default, name));
        println!("{name:<48} {first:<10} {second:<10} {third}: {what}");
    }
    let (n, of) = (leaks(&default).len(), default.len());
    println!("{of} probes; let through: 0 by ours or the test fails, {n} by a default container");
    assert_eq!(leaks(&embedded), [""; 0], "in namespaces");
    assert_eq!(leaks(&container), [""; 0], "in our container");
    assert!(n >= ENOUGH_LEAKS, "a default container lets only {n} through: the probes do not probe");
    if canaries.stand_in.is_some() {
        assert!(default["network: a stand-in for the metadata address"].0, "the stand-in can be reached at all");
    }
    assert!(default["network: the host by its bridge"].0, "the canary can be reached at all");
}

async fn in_namespaces(root: &tempfile::TempDir, canaries: &Canaries) -> Verdicts {
    probe(namespace_backend(root), &spec(None), "/workspace/probe", canaries, "127.0.0.1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_gets_through_in_an_unprivileged_users_sandbox_either() {
    let root = tempfile::tempdir().unwrap();
    if compiled_before().is_some() {
        let verdicts = in_namespaces(&root, &Canaries::new()).await;
        return assert_eq!(leaks(&verdicts), [""; 0]);
    }
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Not root: the other test has just done that.
        return;
    }
    // As nobody, with everything where nobody can get at it.
    let place = root.path();
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tmp = place.join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o777)).unwrap();
    for (from, to) in [(std::env::current_exe().unwrap(), "tests"), (program(), "probe")] {
        std::fs::copy(from, place.join(to)).unwrap();
        std::fs::set_permissions(place.join(to), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = tokio::task::spawn_blocking({
        let place = place.to_owned();
        move || {
            std::process::Command::new(place.join("tests"))
                .args(["--exact", "probes::nothing_gets_through_in_an_unprivileged_users_sandbox_either"])
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env("TMPDIR", &tmp)
                .env(PROGRAM, place.join("probe"))
                .current_dir("/")
                .uid(NOBODY)
                .gid(NOBODY)
                .output()
                .unwrap()
        }
    });
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_engine_never_learns_what_a_command_is_given() {
    let Some(engine) = docker::docker_backend().await else { return };
    let spec = spec(None);
    let sandbox = Sandbox::start(engine, &spec).await.unwrap();
    let env = BTreeMap::from([("SECRET".to_owned(), "swordfish-1".to_owned())]);
    let stdin = Some(b"swordfish-2".to_vec());
    let command = Command { env, stdin, ..Command::shell("echo $SECRET swordfish-3; cat", Duration::from_secs(20)) };
    assert_eq!(run(&sandbox, &command).await.1, b"swordfish-1 swordfish-3\nswordfish-2");
    let inspected = String::from_utf8(docker_program(&["container", "inspect", &spec.name]).await).unwrap();
    assert!(inspected.contains(&spec.name) && !inspected.contains("swordfish"), "{inspected}");
    let layers = String::from_utf8(docker_program(&["container", "diff", &spec.name]).await).unwrap();
    assert!(!layers.contains("swordfish"), "{layers}");
    let logs = tokio::process::Command::new("docker").args(["logs", &spec.name]).output().await.unwrap();
    assert!(!String::from_utf8_lossy(&logs.stdout).contains("swordfish"), "it keeps no log");
    sandbox.stop().await.unwrap();
}
