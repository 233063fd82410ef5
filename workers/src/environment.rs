//! What a commit says about itself, and the image that it runs in.

use tasks::{CommitSha, Failure, RepoName, TreeSha};

use crate::{
    checkout::{self, Mirror},
    repo_config::{self, RepoConfig},
    sandbox::SandboxBackend,
};

/// The configuration of a commit.
///
/// # Errors
/// E007 and E041 for a configuration that cannot be used; E018 for a tree that cannot be carried.
pub(crate) async fn configuration(mirror: &Mirror, commit: &CommitSha, tree: &TreeSha) -> Result<RepoConfig, Failure> {
    let file = mirror.file(commit, repo_config::FILE_NAME).await?;
    RepoConfig::load(file.as_deref(), &mirror.outline(tree).await?)
}

/// Builds the image of the Dockerfile that the configuration names, and makes it the image. False: it names none.
///
/// # Errors
/// E012 with the end of what the build said; E016 where there are no images.
pub(crate) async fn build_image(
    config: &mut RepoConfig,
    mirror: &Mirror,
    commit: &CommitSha,
    repo: &RepoName,
    backend: &dyn SandboxBackend,
) -> Result<bool, Failure> {
    let Some(dockerfile) = &config.environment.dockerfile else { return Ok(false) };
    let tag = format!("onramp/{}:{commit}", repo.to_string().to_lowercase());
    let context = checkout::archive(&mirror.files(commit).await?).map_err(Failure::internal)?;
    config.environment.image = Some(backend.build_image(context, dockerfile, &tag).await?);
    Ok(true)
}
