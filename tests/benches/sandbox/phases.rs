//! What is measured, one function each.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use workers::sandbox::Command;

use crate::{
    baseline::{Container, clone_shared, docker_run},
    machine,
    ours::{COMMAND, Claim, Contender, Repository, SAID, limits},
    report::Report,
};

const SMALL: usize = 2_000;
const LARGE: usize = 20_000;
/// Boxes that stand ready in all phases but the burst.
const POOL: usize = 4;
/// Boxes that stand ready when many come at once.
const BURST_POOL: usize = 16;
const BURST: usize = 100;
const STAGGER: Duration = Duration::from_millis(200);
const RUN: &str = "docker run --rm";
/// Before each measurement of one after the other: the kernel is at work for a while with namespaces and file systems of what
/// was removed, and whoever comes next would pay for whoever was before.
const PAUSE: Duration = Duration::from_millis(300);

async fn by_docker_run(repository: &Repository) -> Duration {
    docker_run(&limits(), &repository.checkout, COMMAND, SAID).await
}

/// A repository's contenders, warm and cold, of both kinds.
async fn contenders(repository: &Arc<Repository>) -> Vec<(&'static str, Contender)> {
    let mut contenders = Vec::new();
    for kind in ["docker", "namespace"] {
        contenders.push(("warm", Contender::new(kind, repository, POOL).await));
        contenders.push(("cold", Contender::new(kind, repository, 0).await));
    }
    contenders
}

fn add_parts(report: &mut Report, phase: &str, contender: &str, claim: &Claim) {
    claim.parts.iter().for_each(|(part, took)| report.add(phase, &format!("{contender}: {part}"), *took));
}

/// From the claim to the end of the first command, one after the other.
pub(crate) async fn ready(report: &mut Report, n: usize) {
    let repository = Arc::new(Repository::new(SMALL).await);
    let contenders = contenders(&repository).await;
    let load = machine::load();
    // The first round fills the caches of the machine.
    for run in 0..=n {
        tokio::time::sleep(PAUSE).await;
        let took = by_docker_run(&repository).await;
        if run > 0 {
            report.add("ready", RUN, took);
        }
        for (how, contender) in &contenders {
            tokio::time::sleep(PAUSE).await;
            let claim = contender.claim().await;
            contender.rest().await;
            if run > 0 {
                let name = format!("onramp, {}, {how}", contender.kind);
                report.add("ready", &name, claim.took);
                add_parts(report, "ready parts", &name, &claim);
            }
        }
    }
    let how = "one after the other";
    report.print("ready", &format!("Sandbox ready, {SMALL} files: claim to the first command's exit, {how}"), &load);
    report.print("ready parts", "Where the time goes", &load);
    contenders.iter().filter(|(how, _)| *how == "warm").for_each(|(_, contender)| println!("{}", contender.about()));
    let run = report.summary("ready", RUN);
    for kind in ["docker", "namespace"] {
        let warm = report.summary("ready", &format!("onramp, {kind}, warm"));
        report.at_least(&format!("ready, {kind} warm, p50 over `docker run`"), run.p50 / warm.p50, 100.0);
        report.at_least(&format!("ready, {kind} warm, p99 over `docker run`"), run.p99 / warm.p99, 30.0);
        let cold = report.summary("ready", &format!("onramp, {kind}, cold"));
        report.at_most(&format!("ready, {kind} cold, p50 of `docker run`"), cold.p50 / run.p50, 1.05);
    }
    for (_, contender) in contenders {
        contender.end().await;
    }
}

/// From the claim to a workspace that holds the task's commit. Clones of many files take long, so there are fewer rounds of
/// them; all claims come first in a round, because a clone is still being written when it has ended.
pub(crate) async fn workspace(report: &mut Report, n: usize) {
    let mut sizes = Vec::new();
    for size in [SMALL, LARGE] {
        let repository = Arc::new(Repository::new(size).await);
        let contenders = contenders(&repository).await;
        sizes.push((size, repository, contenders));
    }
    let load = machine::load();
    for run in 0..=n {
        for (size, _, contenders) in &sizes {
            for (how, contender) in contenders {
                tokio::time::sleep(PAUSE).await;
                let claim = contender.claim_workspace().await;
                contender.rest().await;
                if run > 0 {
                    let name = format!("onramp, {}, {how}, {size} files", contender.kind);
                    report.add("workspace", &name, claim.took);
                    add_parts(report, "workspace parts", &name, &claim);
                }
            }
        }
        for ((size, repository, _), n_clones) in sizes.iter().zip([n.min(10), n.min(3)]) {
            if run <= n_clones {
                tokio::time::sleep(PAUSE).await;
                let to: PathBuf = repository.dir().join(format!("clone-{run}"));
                // The mirror's branch stands at the task's commit.
                let took = clone_shared(repository.mirror.path(), to).await;
                if run > 0 {
                    report.add("workspace", &format!("git clone --shared, {size} files"), took);
                }
            }
        }
    }
    report.print("workspace", "Workspace at the task's commit: claim to the last file, one after the other", &load);
    report.print("workspace parts", "Where the time goes", &load);
    for kind in ["docker", "namespace"] {
        let ours = |size| report.summary("workspace", &format!("onramp, {kind}, warm, {size} files"));
        let (ours_small, ours_large) = (ours(SMALL), ours(LARGE));
        for (size, ours) in [(SMALL, ours_small), (LARGE, ours_large)] {
            let clone = report.summary("workspace", &format!("git clone --shared, {size} files"));
            report.at_least(&format!("workspace, {kind} warm, {size} files, p50"), clone.p50 / ours.p50, 200.0);
        }
        let growth = ours_large.p50 / ours_small.p50;
        report.at_most(&format!("workspace, {kind} warm, {LARGE} over {SMALL} files, p50"), growth, 1.5);
    }
    for (size, _, contenders) in sizes {
        for (how, contender) in contenders {
            if how == "warm" {
                println!("{size} files, {}", contender.about());
            }
            contender.end().await;
        }
    }
}

/// A command in something that runs already.
pub(crate) async fn exec(report: &mut Report, n: usize) {
    let repository = Arc::new(Repository::new(10).await);
    let container = Container::start(&limits()).await;
    let docker = Contender::new("docker", &repository, 0).await;
    let namespace = Contender::new("namespace", &repository, 0).await;
    let boxes = [("docker", docker.open().await), ("namespace", namespace.open().await)];
    let load = machine::load();
    for run in 0..=n {
        let took = container.exec(":").await;
        if run > 0 {
            report.add("exec", "docker exec", took);
        }
        for (kind, sandbox) in &boxes {
            let began = Instant::now();
            let exit = sandbox.run(&Command::shell(":", Duration::from_secs(60)), &mut |_| {}).await.expect("runs");
            let took = began.elapsed();
            assert!(exit.success(), "{exit:?}");
            if run > 0 {
                report.add("exec", &format!("onramp, {kind}"), took);
            }
        }
    }
    report.print("exec", "A command in a running sandbox, one after the other", &load);
    let exec = report.summary("exec", "docker exec");
    for (kind, _) in &boxes {
        let ours = report.summary("exec", &format!("onramp, {kind}"));
        report.at_least(&format!("exec, {kind}, p50 over `docker exec`"), exec.p50 / ours.p50, 25.0);
    }
    drop(boxes);
    container.remove().await;
    docker.end().await;
    namespace.end().await;
}

/// A claim every 200 ms, whether the one before it has ended or not; ten of each contender in turn.
pub(crate) async fn staggered(report: &mut Report, n: usize) {
    let repository = Arc::new(Repository::new(SMALL).await);
    let docker = Arc::new(Contender::new("docker", &repository, POOL).await);
    let namespace = Arc::new(Contender::new("namespace", &repository, POOL).await);
    let load = machine::load();
    for _ in 0..n.div_ceil(10) {
        for took in
            arrivals(10, STAGGER, async |repository: Arc<Repository>| by_docker_run(&repository).await, &repository)
                .await
        {
            report.add("staggered", RUN, took);
        }
        for contender in [&docker, &namespace] {
            contender.until_filled().await;
            let claims =
                arrivals(10, STAGGER, async |contender: Arc<Contender>| contender.claim().await.took, contender).await;
            for took in claims {
                report.add("staggered", &format!("onramp, {}", contender.kind), took);
            }
        }
    }
    let title = format!(
        "Sandbox ready, {SMALL} files, a claim every {} ms: claim to the first command's exit",
        STAGGER.as_millis()
    );
    report.print("staggered", &title, &load);
    println!("{}\n{}", docker.about(), namespace.about());
    let run = report.summary("staggered", RUN);
    for kind in ["docker", "namespace"] {
        let ours = report.summary("staggered", &format!("onramp, {kind}"));
        report.at_least(&format!("staggered, {kind}, p50 over `docker run`"), run.p50 / ours.p50, 100.0);
        report.at_least(&format!("staggered, {kind}, p99 over `docker run`"), run.p99 / ours.p99, 30.0);
    }
    for contender in [docker, namespace] {
        Arc::into_inner(contender).expect("nobody else holds it").end().await;
    }
}

/// Starts `n` of them, `apart` from each other, and waits for all.
async fn arrivals<T: Send + Sync + 'static, F: Future<Output = Duration> + Send + 'static>(
    n: usize,
    apart: Duration,
    one: impl Fn(Arc<T>) -> F,
    of: &Arc<T>,
) -> Vec<Duration> {
    let mut running = Vec::new();
    let mut ticks = tokio::time::interval(apart.max(Duration::from_nanos(1)));
    for _ in 0..n {
        if !apart.is_zero() {
            ticks.tick().await;
        }
        running.push(tokio::spawn(one(Arc::clone(of))));
    }
    let mut took = Vec::new();
    for one in running {
        took.push(one.await.expect("it succeeds"));
    }
    took
}

/// A hundred at once: as many as stand ready are taken, the others start.
pub(crate) async fn burst(report: &mut Report) {
    let repository = Arc::new(Repository::new(SMALL).await);
    let docker = Arc::new(Contender::new("docker", &repository, BURST_POOL).await);
    let namespace = Arc::new(Contender::new("namespace", &repository, BURST_POOL).await);
    let load = machine::load();
    let mut walls = Vec::new();
    let began = Instant::now();
    for took in arrivals(
        BURST,
        Duration::ZERO,
        async |repository: Arc<Repository>| by_docker_run(&repository).await,
        &repository,
    )
    .await
    {
        report.add("burst", RUN, took);
    }
    walls.push((RUN, began.elapsed()));
    for contender in [&docker, &namespace] {
        contender.until_filled().await;
        let began = Instant::now();
        let claims =
            arrivals(BURST, Duration::ZERO, async |contender: Arc<Contender>| contender.claim().await.took, contender)
                .await;
        walls.push((contender.kind, began.elapsed()));
        for took in claims {
            report.add("burst", &format!("onramp, {}", contender.kind), took);
        }
    }
    report.print(
        "burst",
        &format!("{BURST} at once, {SMALL} files: claim to the first command's exit, all succeeded"),
        &load,
    );
    for (what, wall) in &walls {
        println!("{what}: all {BURST} after {:.2} s", wall.as_secs_f64());
    }
    println!("{}\n{}", docker.about(), namespace.about());
    let run = walls[0].1.as_secs_f64();
    for (kind, wall) in &walls[1..] {
        report.at_most(
            &format!("burst of {BURST}, {kind}, wall time of {BURST} parallel `docker run`"),
            wall.as_secs_f64() / run,
            1.0,
        );
        let n = report.summary("burst", &format!("onramp, {kind}"));
        report.holds(&format!("burst of {BURST}, {kind}, all succeed"), true, format!("p99 {:.0} ms", n.p99));
    }
    for contender in [docker, namespace] {
        Arc::into_inner(contender).expect("nobody else holds it").end().await;
    }
}

/// What keeping the pool filled costs, beside what `docker run` costs.
pub(crate) async fn refill(report: &mut Report, n: usize) {
    let repository = Arc::new(Repository::new(SMALL).await);
    println!("\nProcessor time of the engine and of this process, for each sandbox, load {}", machine::load());
    let per = |before: Duration, n: usize| (machine::cpu_of_engine_and_self() - before).as_secs_f64() * 1e3 / n as f64;
    let before = machine::cpu_of_engine_and_self();
    for _ in 0..n {
        by_docker_run(&repository).await;
    }
    println!("{RUN}: {:.0} ms each", per(before, n));
    for kind in ["docker", "namespace"] {
        let contender = Contender::new(kind, &repository, POOL).await;
        let before = machine::cpu_of_engine_and_self();
        for _ in 0..n {
            report.add("refill", kind, contender.claim().await.took);
            contender.until_filled().await;
        }
        contender.sandboxes.settle().await;
        println!("onramp, {kind}, claim, refill and removal: {:.0} ms each; {}", per(before, n), contender.about());
        contender.end().await;
    }
}
