//! Bases as images: what a container wrote, committed as a layer on what it started from.
//!
//! Everything of a base is in the engine: its files, and as labels what it is. So it works on remote and rootless engines,
//! and what nobody has on record can still be found and removed.

use std::collections::HashMap;

use bollard::{
    models::ContainerConfig,
    query_parameters::{CommitContainerOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder},
};
use tasks::Failure;

use super::{
    DockerBackend, KIND, LABEL_BASE, LABEL_ENVIRONMENT, LABEL_INSTALLATION,
    engine::{BUILD_TIMEOUT, call, call_within},
};
use crate::sandbox::{KeptBase, SandboxError, SandboxSpec};

/// The name under which bases are tagged, so that an engine's own cleaning of nameless images leaves them alone.
const REPOSITORY: &str = "onramp-base";

impl DockerBackend {
    /// Commits the container of `spec` as the base `id`.
    pub(super) async fn commit(&self, spec: &SandboxSpec, id: &str, environment: String) -> Result<KeptBase, Failure> {
        let tag = format!("{}-{id}", self.installation);
        let options = CommitContainerOptionsBuilder::new().container(&spec.name).repo(REPOSITORY).tag(&tag).build();
        let labels = [
            (LABEL_INSTALLATION, self.installation.as_str()),
            (LABEL_BASE, id),
            (LABEL_ENVIRONMENT, environment.as_str()),
        ];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let config = ContainerConfig { labels: Some(labels), ..ContainerConfig::default() };
        let before = self.image_size(spec.image.as_deref().or(self.default_image.as_deref())).await?;
        let committed = call_within(BUILD_TIMEOUT, self.engine.commit_container(options, config))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot keep a base"))?;
        let n_bytes = self.image_size(Some(&committed.id)).await?.saturating_sub(before);
        Ok(KeptBase { id: id.to_owned(), kind: KIND.to_owned(), kept_as: committed.id, environment, n_bytes })
    }

    async fn image_size(&self, image: Option<&str>) -> Result<u64, Failure> {
        let Some(image) = image else { return Ok(0) };
        let inspected = call(self.engine.inspect_image(image))
            .await
            .map_err(|error| self.failure(&error, format!("The Docker engine cannot look at the image {image}")))?;
        Ok(inspected.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0))
    }

    /// Removes the image of a base.
    pub(super) async fn remove_image(&self, base: &KeptBase) -> Result<(), SandboxError> {
        // By its tag: an image with another tag is somebody else's too.
        let tag = format!("{REPOSITORY}:{}-{}", self.installation, base.id);
        let options = RemoveImageOptionsBuilder::new().force(false).build();
        match call(self.engine.remove_image(&tag, Some(options), None)).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(error) if error.status() == Some(409) => {
                Err(SandboxError::Refused { operation: "remove a base", reason: "a sandbox uses it".into() })
            }
            Err(error) => Err(self.failure(&error, format!("The Docker engine cannot remove the image {tag}")).into()),
        }
    }

    /// The images that are bases of this installation.
    pub(super) async fn kept_images(&self) -> Result<Vec<KeptBase>, Failure> {
        let label = format!("{LABEL_INSTALLATION}={}", self.installation);
        let filters = HashMap::from([("label", vec![label, LABEL_BASE.to_owned()])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = call(self.engine.list_images(Some(options)))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot list the bases"))?;
        let kept = images.into_iter().map(|image| {
            let label = |key: &str| image.labels.get(key).cloned().unwrap_or_default();
            let n_bytes = u64::try_from(image.size).unwrap_or(0);
            KeptBase {
                id: label(LABEL_BASE),
                kind: KIND.to_owned(),
                kept_as: image.id.clone(),
                environment: label(LABEL_ENVIRONMENT),
                n_bytes,
            }
        });
        Ok(kept.collect())
    }
}
