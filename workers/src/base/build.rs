//! Building one base, in a box of its own.

use std::{sync::Arc, time::Instant};

use secrecy::ExposeSecret as _;
use tasks::{Failure, Phase, RepoName};
use tokio_util::sync::CancellationToken;

use super::{Bases, Record, recipe, residue};
use crate::{
    checkout::{Base, Mirror},
    egress::{Egress, Ways},
    environment,
    progress::Progress,
    repo_config::RepoConfig,
    run::sandbox_failure,
    sandbox::SandboxSpec,
    text,
    workspace::{Wish, Workspace, command},
};

impl Bases {
    /// Builds a base from the tip of the default branch, unless there is one that was made from the same.
    ///
    /// # Errors
    /// What fetching, the configuration and the sandbox say, and E014 for a setup command that failed.
    pub(super) async fn build(&self, repo: &RepoName) -> Result<Option<Record>, Failure> {
        let remote = self.forge.remote(repo).await?;
        let (mirror, tip) = Mirror::checkout(&self.mirrors, repo, &remote, None).await?;
        let tree = mirror.tree_of(&tip.commit).await?;
        let mut config = environment::configuration(&mirror, &tip.commit, &tree).await?;
        let backend = self.sandboxes.backend();
        environment::build_image(&mut config, &mirror, &tip.commit, repo, backend.as_ref()).await?;
        let recipe = recipe::of(&config, backend.as_ref());
        let made_from = backend.environment(config.environment.image.as_deref()).await?;
        let old: Vec<Record> = self.shelf.all().into_iter().filter(|record| record.repo == *repo).collect();
        let same = |old: &&Record| old.recipe == recipe && old.tree == tree && old.base.environment == made_from;
        if old.iter().any(|old| same(&old)) {
            return Ok(None);
        }

        let started = Instant::now();
        let id = uuid::Uuid::now_v7().simple().to_string();
        let spec = SandboxSpec {
            scope: repo.to_string(),
            image: config.environment.image.clone(),
            limits: config.limits.sandbox.clone(),
            ..SandboxSpec::new(format!("onramp-base-{id}"))
        };
        let workspace = self.prepare(&mirror, repo, &tip, &config, spec.clone()).await?;
        let kept = workspace.into_sandbox().keep(&spec, &id).await.map_err(sandbox_failure)?;
        let record = Record::new(repo, recipe, tip.commit, tree, kept, (self.clock)());
        self.shelf.put(&record)?;
        tracing::info!(%repo, base.id = id, base.n_bytes = record.base.n_bytes, duration_ms = started.elapsed().as_millis(),
            "built a base");
        // What stood ready on the old one is asked for again on the new one.
        for spec in old.iter().flat_map(|old| self.sandboxes.retire(&old.base.id)) {
            self.sandboxes.expect(&SandboxSpec { base: Some(record.base.clone()), ..spec });
        }
        Ok(Some(record))
    }

    /// A box with the files of the commit, set up and built ahead, in which nothing runs any more.
    async fn prepare(
        &self,
        mirror: &Mirror,
        repo: &RepoName,
        tip: &Base,
        config: &RepoConfig,
        spec: SandboxSpec,
    ) -> Result<Workspace, Failure> {
        let tree = mirror.tree_of(&tip.commit).await?;
        let (progress, cancel) = (Progress::silent(), CancellationToken::new());
        let _cancel = cancel.clone().drop_guard();
        let wish = Wish { sandboxes: &self.sandboxes, bases: None, mirror, repo, tree: &tree, config, spec: &spec };
        let workspace = Workspace::open(&wish).await?;
        // Setup of a base reaches the hosts that the repository names, and never a model.
        let egress = match config.network.is_empty() && !self.egress.has_registries(repo) {
            true => None,
            false => {
                let (models, policy, tally) = (Arc::default(), self.egress.clone(), Arc::default());
                let ways = Ways { models, policy, network: &config.network, repo, phase: Phase::Setup, tally };
                Some(Egress::open(workspace.sandbox(), ways, &cancel).await?)
            }
        };
        let inside = egress.as_ref().map(|egress| egress.inside().env()).unwrap_or_default();
        let secrets = self.egress.setup_secrets(repo);
        let mut setup_env = inside.clone();
        setup_env.extend(secrets.iter().map(|secret| (secret.name.clone(), secret.value.expose_secret().to_owned())));
        workspace.set_up(config, &setup_env, &progress).await?;
        if !secrets.is_empty() {
            // What setup left running has them too.
            workspace.sandbox().kill_all().await.map_err(sandbox_failure)?;
        }
        for line in &config.environment.prebuild {
            let mut output = text::Tail::default();
            let ran = workspace.sandbox().run(&command(config, &inside, line), &mut |piece| output.push(piece)).await;
            let exit = ran.map_err(sandbox_failure)?;
            if !exit.success() {
                // The cache is then as full as it got.
                let (ended, output) = (text::exit_words(&exit), output.lines(20));
                tracing::warn!(%repo, command = line, ended, output, "a prebuild command failed");
            }
        }
        workspace.restore("setup and prebuild", &progress).await?;
        workspace.sandbox().kill_all().await.map_err(sandbox_failure)?;
        residue::none_left(workspace.sandbox(), &secrets).await?;
        workspace.settle().await;
        Ok(workspace)
    }
}
