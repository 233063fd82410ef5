//! Runs the corpus: every case in a box of its own, with git in a clean clone as the judge.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use crate::{
    corpus::{CASES, Case, PLAIN, Want},
    rig::{Conversions, Rig, canary},
};

/// Nothing in the corpus may take longer, whatever it makes.
const LIMIT: Duration = Duration::from_secs(60);
/// Cases that need nothing but a shell, for the engine's image.
const ON_DOCKER: &[&str] = &[
    "an absolute link",
    "a loop of links",
    "a directory moved behind a link to it",
    "hard links",
    "setuid, setgid and sticky bits, of which git knows none",
    "a pipe in place of a file",
    "a file that cannot be read",
    "a directory that cannot be read",
    "a directory that can be listed and not entered",
    "git's directory in capitals",
    "git's directory in a directory, empty",
    "rules in a new directory",
    "a tracked file that is ignored is made a directory",
    "a file with the same size and its old time",
    "a file and a directory trade places",
    "names that are no text",
    "more levels of directories than can be carried",
    "a file more",
];

/// What happened, if that is not what was wanted.
async fn run(rig: &Rig, case: &Case, plant: &str) -> Result<(), String> {
    let base = rig.base(case.base);
    let room = rig.open(base).await;
    room.sh(&format!("{{ {plant}\n}}", plant = if case.inside.is_empty() { plant } else { case.inside })).await;
    room.sh(case.edit).await;
    let ours = tokio::time::timeout(LIMIT, room.extract()).await.map_err(|_| "it hangs".to_owned())?;
    room.close().await;
    let git = async |conversions| rig.by_git(base, case.edit, conversions).await;
    let same_as = |expected: Result<String, String>| {
        let ours = ours.as_ref().map_err(|failure| format!("refused: {failure:?}"))?;
        let expected = expected.map_err(|error| format!("git refuses it: {error}"))?;
        let (tree, listing) = expected.split_once('\n').unwrap_or((&expected, ""));
        match tree == ours.as_str() {
            true => Ok(tree.to_owned()),
            false => Err(format!("ours:\n{}\ngit's:\n{listing}", rig.listing(ours.as_str()))),
        }
    };
    match case.want {
        Want::Same | Want::Nothing => {
            let tree = same_as(git(Conversions::AsAttributesSay).await)?;
            match (tree == rig.tree_of(base)) == (case.want == Want::Nothing) {
                true => Ok(()),
                false => Err("the case does not show what it says: a change or none".into()),
            }
        }
        Want::Bytes => {
            let tree = same_as(git(Conversions::Off).await)?;
            match git(Conversions::AsAttributesSay).await {
                Ok(converted) if !converted.starts_with(&tree) => Ok(()),
                other => Err(format!("the case does not show what it says, git converts nothing: {other:?}")),
            }
        }
        Want::Refused(words) | Want::RefusedByBoth(words) => {
            if case.want == Want::RefusedByBoth(words) && git(Conversions::AsAttributesSay).await.is_ok() {
                return Err("the case does not show what it says: git takes it".into());
            }
            match ours {
                Err(failure) if failure.code.as_str() == "E031" && failure.message.contains(words) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    }
}

async fn run_all(cases: Vec<&'static Case>, docker: bool) {
    let bases: BTreeSet<&str> = cases.iter().map(|case| case.base).collect();
    let rig = Rig::new(&bases.into_iter().collect::<Vec<_>>(), docker).await;
    let (canary, plant) = canary(&rig);
    let outcomes = stream::iter(&cases).map(async |case| (case.name, run(&rig, case, &plant).await));
    let outcomes: Vec<_> = outcomes.buffer_unordered(3).collect().await;
    let wrong: Vec<String> =
        outcomes.iter().filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.as_ref().err()?))).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
    assert!(!canary.exists(), "something of a sandbox ran on the host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_agent_leaves_behind_is_carried_as_git_would_or_refused() {
    let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
    assert!(names.len() == CASES.len() && CASES.len() >= 120, "{} cases, each with a name of its own", CASES.len());
    run_all(CASES.iter().collect(), false).await;
}

/// `ONRAMP_EXTRACT_FILES=1000000` makes it a million.
#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
fn n_files() -> u32 {
    std::env::var("ONRAMP_EXTRACT_FILES").map_or(20_000, |n| n.parse().expect("ONRAMP_EXTRACT_FILES is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_files_is_told_and_not_read_and_costs_nothing_where_it_is_ignored() {
    let rig = Rig::new(&[PLAIN], false).await;
    let n = n_files();
    for (place, is_refused) in [("target", false), ("flood", true)] {
        let room = rig.open(rig.base(PLAIN)).await;
        let perl = format!(
            "mkdir {place} && perl -e 'for (1..{n}) {{ open F, q(>), qq({place}/$_) or die }}' && echo y >README.md"
        );
        room.sh_within(&perl, Duration::from_secs(580)).await;
        let began = Instant::now();
        let outcome = tokio::time::timeout(LIMIT, room.extract()).await.expect("no hang");
        println!("{n} files in {place}: {:?}", began.elapsed());
        match (outcome, is_refused) {
            (Ok(tree), false) => assert_ne!(tree.as_str(), rig.tree_of(rig.base(PLAIN))),
            (Err(failure), true) => {
                assert_eq!(failure.code.as_str(), "E031");
                assert!(failure.message.starts_with(&format!("The change has {n} files or more")), "{failure:?}");
            }
            (other, _) => panic!("{place}: {other:?}"),
        }
        room.close().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
fn docker_is_skipped() -> bool {
    std::env::var_os("ONRAMP_TEST_SKIP_DOCKER").is_some_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_makes_no_difference_to_what_leaves() {
    if docker_is_skipped() {
        eprintln!("SKIPPED: ONRAMP_TEST_SKIP_DOCKER=1, so nothing was taken out of Docker sandboxes here");
        return;
    }
    let chosen: Vec<_> = CASES.iter().filter(|case| ON_DOCKER.contains(&case.name)).collect();
    assert_eq!(chosen.len(), ON_DOCKER.len(), "every name is one of the corpus");
    run_all(chosen, true).await;
}
