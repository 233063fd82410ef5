//! What is measured, one function each.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use workers::sandbox::Command;

use crate::{
    Options,
    baseline::{Container, clone_shared, docker_run},
    machine,
    ours::{COMMAND, Contender, Repository, SAID, limits},
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

async fn by_docker_run(repository: &Repository) -> Duration {
    docker_run(&limits(), &repository.checkout, COMMAND, SAID).await
}

/// From the claim to the end of the first command, one after the other, and the share of it that is the workspace.
pub(crate) async fn ready_and_workspace(report: &mut Report, n: usize, options: &Options) {
    let small = Arc::new(Repository::new(SMALL).await);
    let large = Arc::new(Repository::new(LARGE).await);
    let mut contenders: Vec<(usize, &str, Contender)> = Vec::new();
    for (repository, size) in [(&small, SMALL), (&large, LARGE)] {
        for kind in ["docker", "namespace"] {
            contenders.push((size, "warm", Contender::new(kind, repository, POOL).await));
            contenders.push((size, "cold", Contender::new(kind, repository, 0).await));
        }
    }
    // Apart from each other: what a clone leaves to be written would slow down whoever comes after it.
    let load = machine::load();
    for run in 0..=n {
        // The first round fills the caches of the machine.
        let add = |report: &mut Report, contender: &str, took: Duration| {
            if run > 0 {
                report.add("ready", contender, took);
            }
        };
        add(report, RUN, by_docker_run(&small).await);
        for (_, how, contender) in contenders.iter().filter(|(size, ..)| *size == SMALL) {
            let name = format!("onramp, {}, {how}", contender.kind);
            let claim = contender.claim().await;
            add(report, &name, claim.ready);
            contender.rest().await;
            if run > 0 {
                claim.parts.iter().for_each(|(part, took)| report.add("parts", &format!("{name}: {part}"), *took));
            }
        }
    }
    let how = "one after the other";
    report.print("ready", &format!("Sandbox ready, {SMALL} files: claim to the first command's exit, {how}"), &load);
    report.print("parts", "Where the time goes", &load);
    if options.wants("workspace") {
        workspace(report, n, &contenders).await;
    }
    for (size, _, contender) in contenders.iter().filter(|(_, how, _)| *how == "warm") {
        println!("{size} files, {}", contender.about());
    }
    let run = report.summary("ready", RUN);
    for kind in ["docker", "namespace"] {
        let warm = report.summary("ready", &format!("onramp, {kind}, warm"));
        report.at_least(&format!("ready, {kind} warm, p50 over `docker run`"), run.p50 / warm.p50, 100.0);
        report.at_least(&format!("ready, {kind} warm, p99 over `docker run`"), run.p99 / warm.p99, 30.0);
        let cold = report.summary("ready", &format!("onramp, {kind}, cold"));
        report.at_most(&format!("ready, {kind} cold, p50 of `docker run`"), cold.p50 / run.p50, 1.05);
        if !options.wants("workspace") {
            continue;
        }
        let ours = |size| report.summary("workspace", &format!("onramp, {kind}, warm, {size} files"));
        let (ours_small, ours_large) = (ours(SMALL), ours(LARGE));
        for (size, ours) in [(SMALL, ours_small), (LARGE, ours_large)] {
            let clone = report.summary("workspace", &format!("git clone --shared, {size} files"));
            report.at_least(&format!("workspace, {kind} warm, {size} files, p50"), clone.p50 / ours.p50, 200.0);
        }
        report.at_most(
            &format!("workspace, {kind} warm, {LARGE} over {SMALL} files, p50"),
            ours_large.p50 / ours_small.p50,
            1.5,
        );
    }
    for (_, _, contender) in contenders {
        contender.end().await;
    }
}

/// From the claim to the last file. Clones of many files take long, so there are fewer rounds of them; all claims come
/// first in a round, because a clone is still being written when it has ended.
async fn workspace(report: &mut Report, n: usize, contenders: &[(usize, &str, Contender)]) {
    let load = machine::load();
    for run in 0..=n {
        let mut add = |contender: &str, took: Duration| {
            if run > 0 {
                report.add("workspace", contender, took);
            }
        };
        for (size, how, contender) in contenders {
            add(&format!("onramp, {}, {how}, {size} files", contender.kind), contender.claim().await.workspace);
            contender.rest().await;
        }
        for (size, n_clones) in [(SMALL, n.min(10)), (LARGE, n.min(3))] {
            if run <= n_clones
                && let Some((_, _, contender)) = contenders.iter().find(|(of, ..)| *of == size)
            {
                let repository = &contender.repository;
                let to: PathBuf = repository.dir().join(format!("clone-{run}"));
                // The mirror's branch stands at the task's commit.
                let took = clone_shared(repository.mirror.path(), to).await;
                add(&format!("git clone --shared, {size} files"), took);
            }
        }
    }
    report.print("workspace", "Workspace at the task's commit: claim to the last file, one after the other", &load);
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
                arrivals(10, STAGGER, async |contender: Arc<Contender>| contender.claim().await.ready, contender).await;
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
            arrivals(BURST, Duration::ZERO, async |contender: Arc<Contender>| contender.claim().await.ready, contender)
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
            report.add("refill", kind, contender.claim().await.ready);
            contender.until_filled().await;
        }
        contender.sandboxes.settle().await;
        println!("onramp, {kind}, claim, refill and removal: {:.0} ms each; {}", per(before, n), contender.about());
        contender.end().await;
    }
}
