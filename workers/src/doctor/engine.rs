//! Whether an engine is good enough: reachable, new enough, with the walls that it should have.

use tasks::Failure;

use super::{Finding, version};
use crate::sandbox::{
    docker::EngineFacts,
    isolation::{Isolation, runtime_is_listed},
};

/// The oldest engine whose containers are what this program expects.
const ENGINE_FLOOR: (u32, u32, u32) = (20, 10, 0);
/// Before it, the engine's own filter lets io_uring through.
const ENGINE_GOOD: (u32, u32, u32) = (25, 0, 0);

/// What the configuration demands.
#[derive(Debug, Clone, Copy)]
pub struct Demands<'a> {
    /// Sandboxes may come from an engine.
    pub engine_is_used: bool,
    /// They come from nowhere else.
    pub engine_is_needed: bool,
    /// `[sandbox] runtime`.
    pub runtime: &'a str,
    /// `[sandbox] minimum_isolation`.
    pub minimum: Isolation,
}

/// Everything that can be said about an engine.
pub fn judge_engine(engine: &Result<EngineFacts, Failure>, demands: Demands<'_>) -> Vec<Finding> {
    if !demands.engine_is_used {
        let mut findings = vec![Finding::ok("engine", "not used: [sandbox] backend is namespace")];
        findings.extend(demands.minimum.demand(Isolation::Namespace).err().map(|failure| isolation_failed(&failure)));
        return findings;
    }
    let facts = match engine {
        Ok(facts) => facts,
        Err(failure) => {
            let says = failure.message.clone();
            let mut findings = vec![match demands.engine_is_needed {
                true => Finding::fail("engine", says, failure.next_step.clone()),
                false => Finding::warn(
                    "engine",
                    format!("{says}; repositories that name an image cannot be worked on"),
                    failure.next_step.clone(),
                ),
            }];
            if !demands.engine_is_needed {
                findings.extend(
                    demands.minimum.demand(Isolation::Namespace).err().map(|failure| isolation_failed(&failure)),
                );
            }
            return findings;
        }
    };
    vec![
        engine_version(facts),
        runc_version(facts),
        runtime(facts, demands),
        isolation(demands),
        seccomp(facts),
        security_module(facts),
        unprivileged(facts),
        control_groups(facts),
    ]
}

fn isolation_failed(failure: &Failure) -> Finding {
    Finding::fail("isolation", failure.message.clone(), failure.next_step.clone())
}

fn engine_version(facts: &EngineFacts) -> Finding {
    let says = format!("Docker Engine {} answers at {}", facts.version, facts.host);
    match version(&facts.version) {
        Some(found) if found < ENGINE_FLOOR => Finding::fail(
            "engine",
            format!("{says}, which is older than 20.10: its containers lack walls that are relied on"),
            "update the engine, best to 28.2 or newer.",
        ),
        Some(found) if found < ENGINE_GOOD => Finding::warn(
            "engine",
            format!("{says}; before 25.0 its own filter lets io_uring through (Onramp's filter inside closes it)"),
            "update the engine: from 28.0 on containers also start faster, and from 28.2 on GPUs need no hook.",
        ),
        Some(_) => Finding::ok("engine", says),
        None => Finding::warn("engine", format!("{says}, and its version cannot be read"), "check `docker version`."),
    }
}

/// Distributions mend old versions without changing the number; what they made of it shows in the rest.
fn is_mended_elsewhere(text: &str) -> bool {
    ["+ds", "dfsg", "ubuntu", "deb", ".el", ".fc"].iter().any(|mark| text.contains(mark))
}

fn runc_version(facts: &EngineFacts) -> Finding {
    let text = &facts.runc;
    let Some(found) = version(text) else {
        return Finding::warn(
            "runc",
            "the engine does not say which runc it uses",
            "check that `runc --version` on its machine is at least 1.2.8 or 1.3.3.",
        );
    };
    let update = "update runc (or containerd.io) on the engine's machine to at least 1.2.8, 1.3.3 or 1.4.0";
    if found < (1, 1, 12) {
        let says = format!("runc {text} is older than 1.1.12: a container can take over its host (CVE-2024-21626)");
        return match is_mended_elsewhere(text) {
            true => Finding::warn(
                "runc",
                format!("{says}, unless the distribution mended this one"),
                format!("look for CVE-2024-21626 in the changelog of its runc package, or {update}."),
            ),
            false => Finding::fail("runc", says, format!("{update}.")),
        };
    }
    let races = found < (1, 2, 8)
        || ((1, 3, 0)..(1, 3, 3)).contains(&found)
        || text.contains("1.4.0-rc.1")
        || text.contains("1.4.0-rc.2");
    if races {
        return Finding::warn(
            "runc",
            format!(
                "runc {text} can be raced out of its masked paths (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881); user \
                 namespaces soften it"
            ),
            format!("{update}."),
        );
    }
    Finding::ok("runc", format!("runc {text} has no known way out"))
}

fn runtime(facts: &EngineFacts, demands: Demands<'_>) -> Finding {
    if let Err(failure) = runtime_is_listed(demands.runtime, &facts.gpus.runtimes) {
        return Finding::fail("runtime", failure.message, failure.next_step);
    }
    let listed = facts.gpus.runtimes.join(", ");
    match demands.runtime {
        "" => {
            let default = &facts.default_runtime;
            let stronger = facts.gpus.runtimes.iter().find(|name| Isolation::of_runtime(name) > Isolation::Docker);
            match stronger {
                Some(name) => Finding::warn(
                    "runtime",
                    format!("the engine's own runtime is used ({default}), and a stronger one is there: {name}"),
                    format!("set [sandbox] runtime = \"{name}\" and minimum_isolation to match."),
                ),
                None => {
                    Finding::ok("runtime", format!("the engine's own runtime is used ({default}); it lists {listed}"))
                }
            }
        }
        named => Finding::ok("runtime", format!("{named} is used for every sandbox, and the engine lists it")),
    }
}

fn isolation(demands: Demands<'_>) -> Finding {
    let offered = Isolation::of_runtime(demands.runtime);
    match demands.minimum.demand(offered) {
        Err(failure) => isolation_failed(&failure),
        Ok(()) => Finding::ok("isolation", format!("at least {} is demanded, and {offered} is used", demands.minimum)),
    }
}

fn seccomp(facts: &EngineFacts) -> Finding {
    let is_off = facts.security.iter().any(|option| option.contains("name=seccomp") && option.contains("unconfined"));
    if facts.has("seccomp") && !is_off {
        return Finding::ok("seccomp", "the engine filters system calls, and Onramp's own filter stands inside of it");
    }
    Finding::fail(
        "seccomp",
        "the engine does not filter system calls, so no sandbox is started on it",
        "use a kernel and an engine with seccomp, and take `seccomp-profile: unconfined` out of daemon.json.",
    )
}

fn security_module(facts: &EngineFacts) -> Finding {
    match ["apparmor", "selinux"].into_iter().find(|name| facts.has(name)) {
        Some(name) => Finding::ok("apparmor", format!("the engine confines containers with {name} too")),
        None => Finding::warn(
            "apparmor",
            "neither AppArmor nor SELinux confines containers on this engine: one wall less behind the others",
            "enable AppArmor in the kernel (`apparmor=1 security=apparmor`) or SELinux in the engine.",
        ),
    }
}

fn unprivileged(facts: &EngineFacts) -> Finding {
    if facts.has("rootless") {
        return Finding::ok("rootless", "the engine runs without root");
    }
    if facts.has("userns") {
        return Finding::ok("rootless", "root inside a container is nobody on the host (userns-remap)");
    }
    Finding::warn(
        "rootless",
        "the engine runs as root and its containers share the host's users",
        "run a rootless engine (`dockerd-rootless-setuptool.sh install`), or set \"userns-remap\": \"default\" in daemon.json.",
    )
}

fn control_groups(facts: &EngineFacts) -> Finding {
    let generation = facts.cgroup_version.map_or("unknown".to_owned(), |n| format!("version {n}"));
    let missing: Vec<&str> =
        ["memory", "pids", "cpu"].into_iter().filter(|name| !facts.limits.contains(name)).collect();
    if !missing.is_empty() {
        return Finding::fail(
            "cgroups",
            format!("the engine cannot limit {} (control groups {generation})", missing.join(", ")),
            "mount the control groups, or switch the controllers on (rootless: Delegate=cpu memory pids for user@.service).",
        );
    }
    match facts.cgroup_version {
        Some(1) => Finding::warn(
            "cgroups",
            "the engine limits memory, pids and cpu with control groups of the first generation",
            "boot with `systemd.unified_cgroup_hierarchy=1`: the second one counts more exactly and kills whole sandboxes.",
        ),
        _ => Finding::ok("cgroups", format!("the engine limits memory, pids and cpu (control groups {generation})")),
    }
}

#[cfg(test)]
mod tests {
    use tasks::Code;

    use super::*;
    use crate::{
        doctor::{Verdict, report},
        gpu::EngineGpus,
    };

    const PLAIN: Demands<'_> =
        Demands { engine_is_used: true, engine_is_needed: true, runtime: "", minimum: Isolation::Namespace };

    fn good() -> EngineFacts {
        let runtimes = vec!["io.containerd.runc.v2".to_owned(), "runc".to_owned()];
        EngineFacts {
            host: "unix:///var/run/docker.sock".into(),
            version: "28.3.1".into(),
            runc: "1.3.3".into(),
            gpus: EngineGpus { runtimes, ..EngineGpus::default() },
            default_runtime: "runc".into(),
            security: ["name=apparmor", "name=seccomp,profile=builtin", "name=rootless"].map(str::to_owned).to_vec(),
            cgroup_version: Some(2),
            limits: vec!["memory", "swap", "pids", "cpu"],
            root_dir: "/var/lib/docker".into(),
            is_local: true,
        }
    }

    fn judged(facts: EngineFacts, demands: Demands<'_>) -> Vec<Finding> {
        judge_engine(&Ok(facts), demands)
    }

    #[test]
    fn a_good_engine_has_nothing_to_mend() {
        insta::assert_snapshot!(report(&judged(good(), PLAIN)), @r"
        ok    engine          Docker Engine 28.3.1 answers at unix:///var/run/docker.sock
        ok    runc            runc 1.3.3 has no known way out
        ok    runtime         the engine's own runtime is used (runc); it lists io.containerd.runc.v2, runc
        ok    isolation       at least namespace is demanded, and docker is used
        ok    seccomp         the engine filters system calls, and Onramp's own filter stands inside of it
        ok    apparmor        the engine confines containers with apparmor too
        ok    rootless        the engine runs without root
        ok    cgroups         the engine limits memory, pids and cpu (control groups version 2)
        8 checks: 8 ok, 0 to improve, 0 failed
        ");
    }

    #[test]
    fn an_old_engine_is_told_everything_at_once() {
        let old = EngineFacts {
            version: "20.10.24+dfsg1".into(),
            runc: "1.1.5+ds1".into(),
            security: vec!["name=seccomp,profile=default".into()],
            cgroup_version: Some(1),
            ..good()
        };
        insta::assert_snapshot!(report(&judged(old, PLAIN)), @r#"
        warn  engine          Docker Engine 20.10.24+dfsg1 answers at unix:///var/run/docker.sock; before 25.0 its own filter lets io_uring through (Onramp's filter inside closes it)
                              fix: update the engine: from 28.0 on containers also start faster, and from 28.2 on GPUs need no hook.
        warn  runc            runc 1.1.5+ds1 is older than 1.1.12: a container can take over its host (CVE-2024-21626), unless the distribution mended this one
                              fix: look for CVE-2024-21626 in the changelog of its runc package, or update runc (or containerd.io) on the engine's machine to at least 1.2.8, 1.3.3 or 1.4.0.
        ok    runtime         the engine's own runtime is used (runc); it lists io.containerd.runc.v2, runc
        ok    isolation       at least namespace is demanded, and docker is used
        ok    seccomp         the engine filters system calls, and Onramp's own filter stands inside of it
        warn  apparmor        neither AppArmor nor SELinux confines containers on this engine: one wall less behind the others
                              fix: enable AppArmor in the kernel (`apparmor=1 security=apparmor`) or SELinux in the engine.
        warn  rootless        the engine runs as root and its containers share the host's users
                              fix: run a rootless engine (`dockerd-rootless-setuptool.sh install`), or set "userns-remap": "default" in daemon.json.
        warn  cgroups         the engine limits memory, pids and cpu with control groups of the first generation
                              fix: boot with `systemd.unified_cgroup_hierarchy=1`: the second one counts more exactly and kills whole sandboxes.
        8 checks: 3 ok, 5 to improve, 0 failed
        "#);
    }

    #[test]
    fn a_runc_with_a_known_way_out_is_named_with_it() {
        for (runc, verdict, part) in [
            ("1.1.11", Verdict::Fail, "CVE-2024-21626"),
            ("1.0.0-rc95", Verdict::Fail, "CVE-2024-21626"),
            ("1.1.5+ds1", Verdict::Warn, "unless the distribution mended"),
            ("1.1.12", Verdict::Warn, "CVE-2025-31133"),
            ("1.2.7", Verdict::Warn, "CVE-2025-31133"),
            ("1.2.8", Verdict::Ok, "no known way out"),
            ("1.3.0", Verdict::Warn, "CVE-2025-52881"),
            ("1.3.2", Verdict::Warn, "CVE-2025-52881"),
            ("1.3.3", Verdict::Ok, "no known way out"),
            ("1.4.0-rc.1", Verdict::Warn, "CVE-2025-52565"),
            ("1.4.0", Verdict::Ok, "no known way out"),
            ("", Verdict::Warn, "does not say"),
        ] {
            let finding = runc_version(&EngineFacts { runc: runc.into(), ..good() });
            assert!(finding.verdict == verdict && finding.says.contains(part), "{runc}: {finding}");
            assert_eq!(finding.fix.is_some(), verdict != Verdict::Ok, "{finding}");
        }
    }

    #[test]
    fn a_runtime_that_is_not_there_and_a_wall_that_is_too_weak_fail() {
        let failed = |demands| {
            let findings = judged(good(), demands);
            findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail).map(|f| f.id).collect::<Vec<_>>()
        };
        assert_eq!(failed(Demands { runtime: "runsc", ..PLAIN }), ["runtime"]);
        assert_eq!(failed(Demands { minimum: Isolation::Kata, ..PLAIN }), ["isolation"]);
        let with_runsc = EngineFacts {
            gpus: EngineGpus { runtimes: vec!["runc".into(), "runsc".into()], ..EngineGpus::default() },
            ..good()
        };
        let demands = Demands { runtime: "runsc", minimum: Isolation::Runsc, ..PLAIN };
        assert!(judged(with_runsc.clone(), demands).iter().all(|finding| finding.verdict == Verdict::Ok));
        let unused = judged(with_runsc, PLAIN);
        assert!(unused.iter().any(|finding| finding.id == "runtime" && finding.verdict == Verdict::Warn), "{unused:?}");
    }

    #[test]
    fn an_engine_that_does_not_answer_fails_only_where_it_is_needed() {
        let gone = Err(Failure::new(Code::EngineUnreachable, "The Docker engine at x does not answer"));
        let verdict = |demands| judge_engine(&gone, demands).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdict(PLAIN), [Verdict::Fail]);
        assert_eq!(verdict(Demands { engine_is_needed: false, ..PLAIN }), [Verdict::Warn]);
        let demanded = Demands { engine_is_needed: false, minimum: Isolation::Docker, ..PLAIN };
        assert_eq!(verdict(demanded), [Verdict::Warn, Verdict::Fail]);
        let unused = Demands { engine_is_used: false, engine_is_needed: false, ..PLAIN };
        assert_eq!(verdict(unused), [Verdict::Ok]);
        assert_eq!(verdict(Demands { minimum: Isolation::Docker, ..unused }), [Verdict::Ok, Verdict::Fail]);
    }

    #[test]
    fn missing_walls_and_limits_fail() {
        let open = EngineFacts { security: vec!["name=seccomp,profile=unconfined".into()], ..good() };
        assert_eq!(seccomp(&open).verdict, Verdict::Fail);
        assert_eq!(seccomp(&EngineFacts { security: Vec::new(), ..good() }).verdict, Verdict::Fail);
        let unlimited = control_groups(&EngineFacts { limits: vec!["cpu"], ..good() });
        assert!(unlimited.verdict == Verdict::Fail && unlimited.says.contains("memory, pids"), "{unlimited}");
    }
}
