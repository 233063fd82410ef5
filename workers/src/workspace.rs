//! A box whose workspace holds one tree of the repository.
//!
//! From a base only what differs travels, and untouched files keep their times, so that build tools stay warm. Without one
//! every file travels and the setup commands run. Whatever goes wrong with a base, the second way is always there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use guest::protocol::RACY;
use tasks::{Code, Failure, RepoName, TreeSha};

use crate::{
    base::{Bases, Record},
    checkout::Mirror,
    progress::{Progress, ProgressEvent},
    repo_config::RepoConfig,
    run::sandbox_failure,
    sandbox::{Command, Found, Sandbox, SandboxError, SandboxSpec, TreeFile, pool::Sandboxes},
    text,
};

/// The longest that one setup command may take.
pub(crate) const SETUP_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How many bytes are read back to see whether a touched file really changed.
const COMPARE_BYTES: u64 = 64 << 20;

/// What is asked for.
pub(crate) struct Wish<'a> {
    pub(crate) sandboxes: &'a Arc<Sandboxes>,
    /// `None`: from the image, whatever bases there are.
    pub(crate) bases: Option<&'a Bases>,
    pub(crate) mirror: &'a Mirror,
    pub(crate) repo: &'a RepoName,
    /// The tree that is to lie in the workspace.
    pub(crate) tree: &'a TreeSha,
    pub(crate) config: &'a RepoConfig,
    pub(crate) spec: &'a SandboxSpec,
}

/// A box with the tree in its workspace.
pub(crate) struct Workspace {
    sandbox: Sandbox,
    mirror: Mirror,
    tree: TreeSha,
    base: Option<Record>,
}

impl Workspace {
    /// A box with the tree in its workspace, from a base where one serves. [`Workspace::is_set_up`] says whether the setup
    /// commands have run already.
    pub(crate) async fn open(wish: &Wish<'_>) -> Result<Self, Failure> {
        let workspace = Self::begin(wish).await?;
        match workspace.sandbox.settle().await {
            Ok(()) => Ok(workspace),
            Err(_) if workspace.base.is_some() => workspace.again(wish).await,
            Err(error) => Err(sandbox_failure(error)),
        }
    }

    /// As [`Workspace::open`], without the wait for what is on its way into the box: what comes next follows right behind.
    /// Whoever fails with it asks [`Workspace::holds_its_tree`], and if it does not, begins once more with
    /// [`Workspace::again`].
    pub(crate) async fn begin(wish: &Wish<'_>) -> Result<Self, Failure> {
        if let Some(bases) = wish.bases
            && let Some(record) = bases.find(wish.repo, wish.config)
        {
            match Self::from_base(wish, &record).await {
                Ok(Some(workspace)) => {
                    bases.used(&record);
                    return Ok(workspace);
                }
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!(base.id = record.base.id, failure.message, "a base could not be used");
                }
            }
        }
        Self::from_image(wish).await
    }

    /// Whether the box is known to hold the tree.
    pub(crate) fn holds_its_tree(&self) -> bool {
        self.sandbox.is_settled()
    }

    /// From the image this time: something that setup made for the base was in the way of the tree, perhaps.
    pub(crate) async fn again(self, wish: &Wish<'_>) -> Result<Self, Failure> {
        let base = self.base.as_ref().map_or("", |record| record.base.id.as_str());
        tracing::warn!(base.id = base, "a box from a base could not be brought to its tree; now from the image");
        drop(self);
        // The next box has the same name, unless this one stood ready under its own.
        wish.sandboxes.gone(&wish.spec.name).await;
        Self::from_image(wish).await
    }

    async fn from_image(wish: &Wish<'_>) -> Result<Self, Failure> {
        let files = wish.mirror.tree_files(wish.tree).await?;
        let sandbox = wish.sandboxes.open(wish.spec).await.map_err(sandbox_failure)?;
        sandbox.put(files).await.map_err(sandbox_failure)?;
        sandbox.mark().await.map_err(sandbox_failure)?;
        Ok(Self { sandbox, mirror: wish.mirror.clone(), tree: wish.tree.clone(), base: None })
    }

    /// `None`: setup of this tree would do something else than it did for the base.
    async fn from_base(wish: &Wish<'_>, record: &Record) -> Result<Option<Self>, Failure> {
        let delta = wish.mirror.delta(&record.tree, wish.tree).await?;
        if !Bases::serves(wish.config, &delta) {
            return Ok(None);
        }
        let spec = SandboxSpec { base: Some(record.base.clone()), ..wish.spec.clone() };
        let sandbox = wish.sandboxes.open_at(&spec, &delta).await.map_err(sandbox_failure)?;
        let (mirror, tree) = (wish.mirror.clone(), wish.tree.clone());
        Ok(Some(Self { sandbox, mirror, tree, base: Some(record.clone()) }))
    }

    /// The box.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The box, and nothing else any more.
    pub(crate) fn into_sandbox(self) -> Sandbox {
        self.sandbox
    }

    /// Whether the setup commands have run in it, when its base was made.
    pub(crate) fn is_set_up(&self) -> bool {
        self.base.is_some()
    }

    /// What it runs in, for the evidence.
    pub(crate) fn environment(&self) -> String {
        let environment = self.sandbox.environment();
        match &self.base {
            Some(record) => format!("{environment}, from base {} at {}", record.base.id, record.commit.short()),
            None => environment.to_owned(),
        }
    }

    /// Runs the setup commands and puts back what they changed of the tree. What else they wrote counts as there from the
    /// start. `env`: how to reach what may be reached.
    ///
    /// # Errors
    /// E014 for a command that fails, with the end of its output.
    pub(crate) async fn set_up(
        &self,
        config: &RepoConfig,
        env: &BTreeMap<String, String>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        for line in &config.environment.setup {
            let mut output = text::Tail::default();
            let exit = self
                .sandbox
                .run(&command(config, env, line), &mut |piece| output.push(piece))
                .await
                .map_err(sandbox_failure)?;
            if !exit.success() {
                let message =
                    format!("The setup command `{line}` failed on the untouched base ({})", text::exit_words(&exit));
                return Err(Failure::new(Code::SetupFailed, message).detail(output.lines(40)));
            }
            progress.step(format!("setup: {line}"));
        }
        self.is_ready(config, progress).await
    }

    /// After the setup commands: see [`Workspace::set_up`].
    pub(crate) async fn is_ready(&self, config: &RepoConfig, progress: &Progress) -> Result<(), Failure> {
        if config.environment.setup.is_empty() {
            return Ok(());
        }
        self.restore("setup", progress).await?;
        self.settle().await;
        self.sandbox.mark().await.map_err(sandbox_failure)
    }

    /// Waits until what was written last is old enough for a mark to tell it from what comes after. Else it would stay a
    /// candidate, and a file that is not of the tree would count as the agent's.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(RACY * 2).await;
    }

    /// Puts the tree's own bytes back wherever something changed a file of the tree, and tells it.
    pub(crate) async fn restore(&self, culprit: &str, progress: &Progress) -> Result<(), Failure> {
        let changes = match self.sandbox.changes().await {
            Ok(changes) => changes,
            Err(SandboxError::TooMuch { .. }) => {
                // Too many to look at one by one: everything is put back.
                let files = self.mirror.tree_files(&self.tree).await?;
                self.sandbox.put(files).await.map_err(sandbox_failure)?;
                return self.sandbox.mark().await.map_err(sandbox_failure);
            }
            Err(error) => return Err(sandbox_failure(error)),
        };
        if changes.is_empty() {
            return Ok(());
        }
        // A tracked file whose parent became something else is listed by that parent, or as gone.
        let now: HashMap<&[u8], Found> = changes.iter().map(|change| (change.path.as_slice(), change.now)).collect();
        let tracked = self.mirror.pick(&self.tree, now.keys().map(|path| path.to_vec()).collect()).await?;
        let same_size =
            |file: &TreeFile| now.get(file.path.as_slice()) == Some(&Found::File(file.kind, file.bytes.len() as u64));
        let (touched, mut changed): (Vec<TreeFile>, Vec<TreeFile>) = tracked.into_iter().partition(same_size);
        if !touched.is_empty() {
            match self.sandbox.get(touched.iter().map(|file| file.path.clone()).collect(), COMPARE_BYTES).await {
                Ok(now) => changed.extend(touched.into_iter().filter(|file| !now.contains(file))),
                Err(SandboxError::TooMuch { .. } | SandboxError::Refused { .. }) => changed.extend(touched),
                Err(error) => return Err(sandbox_failure(error)),
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> =
            changed.iter().take(3).map(|file| format!("`{}`", String::from_utf8_lossy(&file.path))).collect();
        if changed.len() > names.len() {
            names.push(format!("{} more", changed.len() - names.len()));
        }
        let names = names.join(", ");
        progress.tell(ProgressEvent::Warning(format!("{culprit} changed {names}; put back as it was")));
        let paths = changed.iter().map(|file| file.path.clone()).collect();
        self.sandbox.put(changed).await.map_err(sandbox_failure)?;
        self.sandbox.mark_paths(paths).await.map_err(sandbox_failure)
    }
}

/// A command line as setup, checks and the building of a base run it.
pub(crate) fn command(config: &RepoConfig, env: &BTreeMap<String, String>, line: &str) -> Command {
    let mut command = Command::shell(line, SETUP_TIMEOUT);
    command.env = BTreeMap::from([("CI".to_owned(), "true".to_owned())]);
    command.env.extend(env.clone());
    command.env.extend(config.environment.env.clone());
    command
}
