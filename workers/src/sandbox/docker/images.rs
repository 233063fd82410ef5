//! Images: looked at, pulled and built.

use std::time::{Duration, Instant};

use bollard::query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder};
use bytes::Bytes;
use tasks::{Code, Failure};

use super::{
    DockerBackend,
    engine::{BUILD_TIMEOUT, call, follow},
};

/// How long it may take to bring an image.
const PULL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

impl DockerBackend {
    /// The id of an image, or `None` when the engine does not have it.
    pub(super) async fn image_id(&self, image: &str) -> Result<Option<String>, Failure> {
        match call(self.engine.inspect_image(image)).await {
            Ok(inspected) => {
                let digests = inspected.repo_digests.unwrap_or_default();
                let digest =
                    digests.iter().find_map(|digest| digest.split_once('@').map(|(_, digest)| digest.to_owned()));
                Ok(digest.or(inspected.id))
            }
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(self.failure(&error, format!("The Docker engine cannot look at the image {image}"))),
        }
    }

    /// Brings the image if it is not there, and returns how the evidence names it: `name@sha256:…`.
    ///
    /// # Errors
    /// [`Code::ImageMissing`] when it cannot be pulled.
    pub async fn bring_image(&self, image: &str) -> Result<String, Failure> {
        let id = match self.image_id(image).await? {
            Some(id) => id,
            None => {
                self.pull(image).await?;
                self.image_id(image).await?.ok_or_else(|| missing(image, "it was pulled, and is not there"))?
            }
        };
        Ok(if image.contains('@') { image.to_owned() } else { format!("{image}@{id}") })
    }

    async fn pull(&self, image: &str) -> Result<(), Failure> {
        // Without a tag the engine would pull all of them.
        let name = image.rsplit('/').next().unwrap_or(image);
        let image = if name.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") };
        tracing::info!(image, "pulling an image");
        let began = Instant::now();
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        let pulled = follow(PULL_TIMEOUT, self.engine.create_image(Some(options), None, None), |step| {
            tracing::debug!(image, layer = step.id, status = step.status, "pulling");
            step.error_detail.and_then(|error| error.message)
        });
        pulled.await.map_err(|error| missing(&image, &error))?;
        tracing::info!(image, elapsed_ms = began.elapsed().as_millis() as u64, "pulled an image");
        Ok(())
    }

    pub(super) async fn build(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure> {
        let options = BuildImageOptionsBuilder::new().dockerfile(dockerfile).t(tag).rm(true).forcerm(true).build();
        let body = bollard::body_full(context);
        let mut said = Vec::new();
        let built = follow(BUILD_TIMEOUT, self.engine.build_image(options, None, Some(body)), |step| {
            said.extend(step.stream.into_iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()));
            said.drain(..said.len().saturating_sub(60));
            step.error_detail.and_then(|error| error.message)
        });
        if let Err(error) = built.await {
            said.push(error);
            return Err(Failure::new(Code::ImageMissing, format!("The image of {dockerfile} cannot be built"))
                .next("Mend the Dockerfile named under [environment] in `.onramp.toml`; the end of the build stands above.")
                .detail(said.join("\n")));
        }
        Ok(self.image_id(tag).await?.unwrap_or_else(|| tag.to_owned()))
    }
}

fn missing(image: &str, error: &str) -> Failure {
    let message = format!("The image {image} is not on the Docker engine and cannot be pulled");
    Failure::new(Code::ImageMissing, message).detail(error)
}
