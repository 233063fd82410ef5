//! The suite over the embedded backend, and what only that one does. Needs a Linux that allows namespaces, nothing else.
//!
//! Everything runs twice where it can: as the user that runs the tests and, when that is root, as nobody.

mod limits;
mod tools;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use tasks::{Code, Limit};
use workers::{
    gpu::Gpu,
    sandbox::{Command, HostTools, Sandbox, SandboxBackend, SandboxError, SandboxSpec, namespace::NamespaceBackend},
};

use crate::suite::{Backend, run, sh, spec, with_sandbox};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65_534;

for_each_behaviour!(shared_backend);

/// One root for all tests of this process, like one worker has it; the system's temporary directory takes what is left.
fn shared_root() -> PathBuf {
    static ROOT: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    ROOT.path().join("boxes")
}

/// Whoever runs the tests may lack control groups; what is limited is looked at by itself.
fn own(root: PathBuf, tools: HostTools, accept_host_tools: bool) -> NamespaceBackend {
    NamespaceBackend::new(root, tools, accept_host_tools).accept_without(Limit::ALL)
}

async fn shared_backend() -> Option<Backend> {
    Some(Arc::new(own(shared_root(), HostTools::default(), false)))
}

/// A backend with a root of its own, for tests that look at the root.
fn own_backend(tools: HostTools) -> (tempfile::TempDir, Backend) {
    let root = tempfile::tempdir().unwrap();
    let backend = own(root.path().join("boxes"), tools, false);
    (root, Arc::new(backend))
}

fn n_entries(root: &tempfile::TempDir) -> usize {
    std::fs::read_dir(root.path().join("boxes")).unwrap().count()
}

async fn in_a_box(test: impl AsyncFnOnce(&Sandbox)) {
    with_sandbox(own_backend(HostTools::default()).1, test).await;
}

async fn code_of(sandbox: &Sandbox, line: &str) -> Option<i32> {
    run(sandbox, &Command::shell(line, LIMIT)).await.0.code
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

// --- lent devices ---

/// Stand-ins for the device files of two GPUs, removed at the end: each reads as zeros.
struct StandIns(Vec<PathBuf>);

impl StandIns {
    fn make() -> Option<Self> {
        if !is_root() || Path::new("/dev/nvidiactl").exists() {
            return None;
        }
        let mut made = Self(Vec::new());
        for name in ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1"] {
            let path = Path::new("/dev").join(name);
            let status = std::process::Command::new("mknod").arg("-m666").arg(&path).args(["c", "1", "5"]).status();
            if !status.is_ok_and(|status| status.success()) {
                return None;
            }
            made.0.push(path);
        }
        Some(made)
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[tokio::test]
async fn a_box_shows_the_device_files_of_the_gpu_that_was_lent_and_of_no_other() {
    let lent = |minor| Gpu { id: "GPU-1".into(), model: "x".into(), memory_bytes: 0, minor, slice: None };
    let with = |minor| SandboxSpec { gpus: vec![lent(minor)], ..spec(None) };
    let (_root, backend) = own_backend(HostTools::default());
    let Err(SandboxError::Failure(failure)) = Sandbox::start(Arc::clone(&backend), &with(None)).await else {
        panic!("which device file it is, is not known");
    };
    assert_eq!(failure.code, Code::ResourceMissing, "{failure:?}");
    let Err(failure) = Sandbox::start(Arc::clone(&backend), &with(Some(9999))).await else {
        panic!("a box that was promised a GPU starts without one");
    };
    assert!(failure.to_string().contains("/dev/nvidia"), "{failure}");
    let Some(_devices) = StandIns::make() else {
        eprintln!("SKIPPED: stand-ins for device files cannot be made here, so no box was given any");
        return;
    };
    let sandbox = Sandbox::start(Arc::clone(&backend), &with(Some(0))).await.unwrap();
    assert_eq!(sh(&sandbox, "cd /dev; ls -d nvidia* | xargs").await, "nvidia-uvm nvidia-uvm-tools nvidia0 nvidiactl");
    assert_eq!(sh(&sandbox, "head -c 3 /dev/nvidia0 | wc -c").await, "3", "it can be used");
    sandbox.stop().await.unwrap();
    let sandbox = Sandbox::start(backend, &spec(None)).await.unwrap();
    assert_eq!(sh(&sandbox, "ls /dev | grep -c nvidia || true").await, "0", "nothing is shown that was not lent");
    sandbox.stop().await.unwrap();
}

// --- what is visible ---

#[tokio::test]
async fn nothing_of_the_host_is_visible() {
    let host = tempfile::tempdir().unwrap();
    let secret = host.path().join("secret");
    std::fs::write(&secret, "swordfish").unwrap();
    std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    in_a_box(async |sandbox| {
        let top = sh(sandbox, "ls / | grep -v '^lib' | xargs").await;
        let known =
            ["bin", "dev", "etc", "gnu", "home", "nix", "proc", "run", "sbin", "tmp", "usr", "var", "workspace"];
        assert!(top.split(' ').all(|name| known.contains(&name)), "{top}");
        assert_eq!(
            sh(sandbox, "ls -A /home /tmp /run /workspace /home/onramp | xargs").await,
            "/home: onramp /home/onramp: /run: /tmp: /workspace:"
        );
        for path in [
            "/root",
            "/sys",
            "/boot",
            "/etc/shadow",
            "/etc/machine-id",
            "/var/lib",
            "/dev/sda",
            "/dev/mem",
            &*secret.to_string_lossy(),
        ] {
            assert_ne!(code_of(sandbox, &format!("ls {path}")).await, Some(0), "{path} is visible");
        }
        assert_eq!(sh(sandbox, "cut -d: -f1 /etc/passwd | xargs").await, "root onramp nobody");
        assert_eq!(
            sh(sandbox, "cat /etc/hostname; uname -n; id -u; id -g; id -un").await,
            "onramp\nonramp\n1000\n1000\nonramp"
        );
        assert_eq!(
            sh(sandbox, "ls /dev | xargs").await,
            "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
        );
    })
    .await;
}

#[tokio::test]
async fn the_environment_holds_what_was_chosen_and_nothing_else() {
    in_a_box(async |sandbox| {
        let names = sh(sandbox, "env | cut -d= -f1 | sort | xargs").await;
        assert_eq!(names, "HOME LANG PATH PWD TERM");
    })
    .await;
}

#[tokio::test]
async fn only_its_own_processes_are_seen() {
    in_a_box(async |sandbox| {
        let pids = sh(sandbox, "ls /proc | grep -E '^[0-9]+$' | wc -l").await;
        assert!(pids.trim().parse::<u32>().unwrap() <= 6, "{pids}");
        assert_eq!(sh(sandbox, "tr '\\0' ' ' </proc/1/cmdline").await, "onramp-guest --namespace");
        sh(sandbox, "test ! -s /proc/keys && test ! -s /proc/timer_list").await;
        assert_ne!(code_of(sandbox, "echo 1 > /proc/sys/kernel/printk").await, Some(0));
        assert_ne!(code_of(sandbox, "echo h > /proc/sysrq-trigger").await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn the_hosts_loopback_and_the_world_are_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    in_a_box(async |sandbox| {
        let connect =
            |to: String| format!("bash -c 'exec 3<>/dev/tcp/{to}' 2>&1 | grep -om 1 -E 'refused|unreachable'");
        assert_eq!(sh(sandbox, &connect(format!("127.0.0.1/{port}"))).await, "refused");
        assert_eq!(sh(sandbox, &connect("1.1.1.1/53".into())).await, "unreachable");
        assert_eq!(
            sh(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | grep -vE '^(sit0|tunl0|ip6tnl0)$'").await,
            "lo"
        );
    })
    .await;
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
}

// --- what is allowed ---

#[tokio::test]
async fn no_privilege_is_left() {
    in_a_box(async |sandbox| {
        let status = sh(sandbox, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s '\\t' ' '").await;
        let none = "0".repeat(16);
        let caps = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: {none}\n")).concat();
        assert_eq!(status, format!("{caps}NoNewPrivs: 1\nSeccomp: 2"));
        let outside = sh(sandbox, "awk '{print $1, $2, $3}' /proc/self/uid_map").await;
        assert!(outside.starts_with("1000 ") && outside.ends_with(" 1"), "{outside}");
        if is_root() {
            assert_ne!(outside, "1000 0 1", "nothing inside is root outside");
        }
        assert_ne!(code_of(sandbox, "su -c true nobody </dev/null").await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn the_calls_that_lead_out_are_refused() {
    // (call, number on x86-64, number on aarch64, arguments, errno)
    let calls = [
        ("mount", 165, 40, "0,0,0,0,0", 1),
        ("umount2", 166, 39, "0,0", 1),
        ("unshare(CLONE_NEWUSER)", 272, 97, "0x10000000", 1),
        ("setns", 308, 268, "0,0", 1),
        ("clone(CLONE_NEWUSER)", 56, 220, "0x10000011,0,0,0,0", 1),
        ("clone3", 435, 435, "0,0", 38),
        ("ptrace", 101, 117, "0,0,0,0", 1),
        ("process_vm_readv", 310, 270, "1,0,0,0,0,0", 1),
        ("io_uring_setup", 425, 425, "1,0", 1),
        ("bpf", 321, 280, "0,0,0", 1),
        ("userfaultfd", 323, 282, "0", 1),
        ("keyctl", 250, 219, "0,0,0,0,0", 1),
        ("perf_event_open", 298, 241, "0,0,0,0,0", 1),
        ("open_tree", 428, 428, "0,0,0", 1),
        ("pivot_root", 155, 41, "0,0", 1),
        ("chroot", 161, 51, "0", 1),
        ("init_module", 175, 105, "0,0,0", 1),
        ("reboot", 169, 142, "0,0,0,0", 1),
        ("socket(AF_PACKET)", 41, 198, "17,3,0", 97),
        ("socket(AF_VSOCK)", 41, 198, "40,1,0", 97),
        ("socket(AF_ALG)", 41, 198, "38,5,0", 97),
        ("ioctl(TIOCSTI)", 16, 29, "0,0x5412,0", 1),
        ("a call from the future", 900, 900, "0", 38),
    ];
    in_a_box(async |sandbox| {
        for (name, x86_64, aarch64, arguments, errno) in calls {
            let number = if cfg!(target_arch = "x86_64") { x86_64 } else { aarch64 };
            let line = format!("perl -e 'print syscall({number},{arguments}) == -1 ? $!+0 : \"allowed\"'");
            assert_eq!(sh(sandbox, &line).await, errno.to_string(), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn only_workspace_home_and_temporary_files_can_be_written() {
    in_a_box(async |sandbox| {
        for dir in ["/workspace", "/home/onramp", "/tmp", "/var/tmp", "/run", "/dev/shm"] {
            assert_eq!(code_of(sandbox, &format!("echo x > {dir}/file && cat {dir}/file")).await, Some(0), "{dir}");
        }
        for dir in ["/", "/usr", "/etc", "/home", "/dev", "/proc", "/var"] {
            assert_ne!(code_of(sandbox, &format!("touch {dir}/x")).await, Some(0), "{dir}");
        }
        sh(
            sandbox,
            "cp /bin/true /workspace/program && /workspace/program && cp /bin/true /tmp/program && /tmp/program",
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn node_lists_its_network_interfaces() {
    in_a_box(async |sandbox| {
        if code_of(sandbox, "command -v node").await == Some(0) {
            let line = "node -e 'console.log(Object.keys(require(\"os\").networkInterfaces()).join())'";
            assert_eq!(sh(sandbox, line).await, "lo");
        }
    })
    .await;
}

#[tokio::test]
async fn a_repository_that_asks_for_an_image_is_refused_unless_host_tools_are_accepted() {
    let root = tempfile::tempdir().unwrap();
    let spec = spec(Some("rust:1.95"));
    let strict: Backend = Arc::new(own(root.path().to_owned(), HostTools::default(), false));
    match Sandbox::start(strict, &spec).await {
        Err(SandboxError::Failure(failure)) => assert_eq!(failure.code, Code::ImageNeedsEngine),
        other => panic!("{other:?}"),
    }
    let lenient: Backend = Arc::new(own(root.path().to_owned(), HostTools::default(), true));
    let sandbox = Sandbox::start(lenient, &spec).await.unwrap();
    assert_eq!((sandbox.environment(), sandbox.kind()), ("host tools", "namespace"));
    sandbox.stop().await.unwrap();
}

// --- beginning and end ---

#[tokio::test]
async fn the_probe_starts_a_box_and_tells_what_holds() {
    let (root, _) = own_backend(HostTools::default());
    let backend = own(root.path().join("boxes"), HostTools::default(), false);
    let told = backend.probe().await.unwrap();
    assert!(told.starts_with("Isolated: users, files, processes, network, system calls"), "{told}");
    let limited = NamespaceBackend::enforced().contains(&Limit::Memory);
    assert_eq!(told.contains("Not limited here:"), !limited, "{told}");
    eprintln!("{told}");
    assert_eq!(n_entries(&root), 0);
}

#[tokio::test]
async fn a_stopped_sandbox_leaves_nothing_and_may_be_stopped_again() {
    let (root, backend) = own_backend(HostTools::default());
    let spec = spec(None);
    let sandbox = Sandbox::start(Arc::clone(&backend), &spec).await.unwrap();
    assert!(Sandbox::start(Arc::clone(&backend), &spec).await.is_err(), "a name is used once");
    sh(&sandbox, "mkdir -p closed/deep && touch closed/deep/file && chmod 0 closed/deep closed && ln -s / link").await;
    let marker = marker();
    sh(&sandbox, &format!("(setsid sleep {marker} >/dev/null 2>&1 &)")).await;
    until("the daemon runs", || n_running(&marker) == 1);
    sandbox.stop().await.unwrap();
    assert_eq!(n_running(&marker), 0, "gone when stop returns");
    assert_eq!(n_entries(&root), 0);
    assert_eq!(groups_named(&spec.name), Vec::<PathBuf>::new());
    backend.stop(&spec.name).await.unwrap();
    backend.stop("onramp-never-was").await.unwrap();
}

#[tokio::test]
async fn the_sweep_removes_what_is_not_kept() {
    let (root, backend) = own_backend(HostTools::default());
    let (kept, lost) = (spec(None), spec(None));
    let kept_sandbox = Sandbox::start(Arc::clone(&backend), &kept).await.unwrap();
    drop(Sandbox::start(Arc::clone(&backend), &lost).await.unwrap());
    assert_eq!(backend.sweep(&|name| name == kept.name).await.unwrap(), 1);
    assert_eq!(sh(&kept_sandbox, "echo alive").await, "alive");
    let elsewhere = own(root.path().join("boxes"), HostTools::default(), false);
    assert_eq!(elsewhere.sweep(&|_| false).await.unwrap(), 0, "another worker's box lives");
    kept_sandbox.stop().await.unwrap();
    assert_eq!(n_entries(&root), 0);
}

const WORKER_ROOT: &str = "ONRAMP_TEST_WORKER_ROOT";

#[expect(clippy::disallowed_methods, reason = "how this test tells itself that it is the worker to be killed")]
fn worker_root() -> Option<String> {
    std::env::var(WORKER_ROOT).ok()
}

#[tokio::test]
async fn a_killed_worker_leaves_no_box_and_the_next_one_sweeps_its_files() {
    if let Some(root) = worker_root() {
        let (root, marker) = root.split_once(' ').unwrap();
        let backend: Backend = Arc::new(own(root.into(), HostTools::default(), false));
        let sandbox = Sandbox::start(backend, &spec(None)).await.unwrap();
        let line = format!("(setsid sleep {marker} >/dev/null 2>&1 &); sleep {marker}");
        sandbox.run(&Command::shell(&line, LIMIT), &mut |_| {}).await.unwrap();
        unreachable!("killed before");
    }
    let root = tempfile::tempdir().unwrap();
    let (boxes, marker) = (root.path().join("boxes"), marker());
    let name = "namespace::a_killed_worker_leaves_no_box_and_the_next_one_sweeps_its_files";
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(WORKER_ROOT, format!("{} {marker}", boxes.display()))
        .spawn()
        .unwrap();
    until("both processes run", || n_running(&marker) == 2);
    worker.kill().unwrap();
    worker.wait().unwrap();
    until("no process of the box is left", || n_running(&marker) == 0);
    let backend = own(boxes, HostTools::default(), false);
    assert_eq!(n_entries(&root), 2, "a directory and its lock");
    assert_eq!(backend.sweep(&|_| false).await.unwrap(), 1);
    assert_eq!(n_entries(&root), 0);
}

/// A number of seconds that no other command line holds.
fn marker() -> String {
    format!("1000.{:09}", std::process::id() as u64 * 1000 + spec(None).name.len() as u64)
}

/// Processes of this host that sleep for `marker`.
fn n_running(marker: &str) -> usize {
    let wanted = format!("sleep\0{marker}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .count()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Control groups of this name anywhere.
fn groups_named(name: &str) -> Vec<PathBuf> {
    fn look(dir: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                found.push(entry.path());
            } else if depth < 8 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                look(&entry.path(), name, depth + 1, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), name, 0, &mut found);
    found
}

#[test]
fn all_of_this_works_for_an_unprivileged_user_too() {
    if !is_root() {
        return;
    }
    // The target directory may be closed to others, so the tests move to where nobody can execute them.
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (tests, tmp) = (place.path().join("tests"), place.path().join("tmp"));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::set_permissions(&tests, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o777)).unwrap();
    let env =
        BTreeMap::from([("PATH", "/usr/local/bin:/usr/bin:/bin".into()), ("TMPDIR", tmp.clone().into_os_string())]);
    let output = std::process::Command::new(&tests)
        .args(["namespace::", "--test-threads", "2", "--skip", "all_of_this_works"])
        .env_clear()
        .envs(env)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for name in
        ["no_privilege_is_left", "limits::a_limit_that_cannot_be_kept_here_is_a_refusal_until_it_is_accepted_by_name"]
    {
        assert!(said.contains(&format!("test namespace::{name} ... ok")), "{said}");
    }
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 1, "the shared root, which no test of a process outlives");
}
