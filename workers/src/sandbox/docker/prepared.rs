//! Images with our guest in them: an image, and as one thin layer what every box from it needs.
//!
//! Otherwise the guest travels into each container anew, between its creation and its start. The layer is made after the
//! first start from an image, off its path; whatever goes wrong with it, the guest still travels. Nothing of a repository is
//! in it, so all installations on an engine share it, and the sweep removes it when it is old.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bollard::{
    Docker,
    models::{ContainerConfig, ContainerCreateBody, ImageSummary},
    query_parameters::{
        CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder,
        ListImagesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use super::{
    DockerBackend,
    container::{GUEST_PATH, belongings, user_of},
    engine::{Trouble, call},
};
use crate::sandbox::GUEST;

/// The name under which they are tagged.
const REPOSITORY: &str = "onramp-guest";
/// Which guest is in it.
const LABEL_GUEST: &str = "onramp.guest";
/// One that could not be made is tried again after so long.
const BACKOFF: Duration = Duration::from_secs(10 * 60);
/// Then it is made anew when it is wanted, and not kept for an image that nobody uses any more.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// One with another guest may still be of use to a process of another version.
const OLD_FOR_OTHERS: Duration = Duration::from_secs(24 * 3600);

/// How often the engine is asked to remove what one was made with: for about ten seconds. The sweep does it otherwise.
const REMOVALS: u32 = 9;
/// Longer than making one takes.
const MAKING: Duration = Duration::from_secs(10 * 60);

static GUEST_HASH: LazyLock<String> = LazyLock::new(|| hex::encode(&Sha256::digest(GUEST)[..8]));

/// What this process knows of them, by their tags.
#[derive(Debug, Clone, Default)]
pub(super) struct Prepared {
    images: Arc<Mutex<HashMap<String, State>>>,
    making: TaskTracker,
}

#[derive(Debug)]
enum State {
    Making,
    Ready(String),
    Failed(Instant),
}

impl Prepared {
    /// The id of the image to start from instead of `environment`, when it is there.
    pub(super) fn get(&self, environment: &str, scope: &str) -> Option<String> {
        match self.lock().get(&tag(environment, scope)) {
            Some(State::Ready(id)) => Some(id.clone()),
            _ => None,
        }
    }

    /// Waits until none is being made.
    pub(super) async fn settle(&self) {
        self.making.close();
        self.making.wait().await;
    }

    /// It is not there any more.
    pub(super) fn forget(&self, environment: &str, scope: &str) {
        self.lock().remove(&tag(environment, scope));
    }

    /// False when it is there, being made, or could not be made a while ago.
    fn begin(&self, tag: &str) -> bool {
        let mut images = self.lock();
        let begins = match images.get(tag) {
            None => true,
            Some(State::Failed(at)) => at.elapsed() > BACKOFF,
            Some(State::Making | State::Ready(_)) => false,
        };
        if begins {
            images.insert(tag.to_owned(), State::Making);
        }
        begins
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest belongs to everybody; home and workspace belong to the user of the scope.
fn tag(environment: &str, scope: &str) -> String {
    let made_from = format!("{environment} {}", user_of(scope));
    format!("{}-{}", *GUEST_HASH, hex::encode(&Sha256::digest(made_from)[..12]))
}

impl DockerBackend {
    /// Makes the image for the next start, off the path of this one.
    pub(super) fn prepare(&self, image: &str, environment: &str, scope: &str) {
        let tag = tag(environment, scope);
        if !self.prepared.begin(&tag) {
            return;
        }
        let (engine, prepared) = (self.engine.clone(), self.prepared.clone());
        let (image, scope) = (image.to_owned(), scope.to_owned());
        self.prepared.making.spawn(async move {
            let state = match make(&engine, &image, &scope, &tag).await {
                Ok(id) => State::Ready(id),
                Err(error) => {
                    tracing::debug!(image, %error, "the guest could not be made a layer of the image");
                    State::Failed(Instant::now())
                }
            };
            prepared.lock().insert(tag, state);
        });
    }

    /// Removes old ones, and what a process left that died while it made one.
    pub(super) async fn sweep_prepared(&self) {
        let filters = HashMap::from([("name", vec![format!("^/{REPOSITORY}-")])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let now = SystemTime::now();
        for container in call(self.engine.list_containers(Some(options))).await.unwrap_or_default() {
            let was_left = age(container.created.unwrap_or(0), now) > MAKING;
            if let Some(id) = container.id.filter(|_| was_left)
                && let Err(error) = self.remove(&id).await
            {
                tracing::debug!(id, %error, "what was left of making an image stays");
            }
        }
        let filters = HashMap::from([("reference", vec![REPOSITORY.to_owned()]), ("label", vec![LABEL_GUEST.into()])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = call(self.engine.list_images(Some(options))).await.unwrap_or_default();
        for image in images.into_iter().filter(|image| is_old(image, now)) {
            // By their tags: a base that was made from one keeps the layer.
            for tag in image.repo_tags.iter().filter(|tag| tag.starts_with(REPOSITORY)) {
                let options = RemoveImageOptionsBuilder::new().force(false).build();
                if let Err(error) = call(self.engine.remove_image(tag, Some(options), None)).await {
                    tracing::debug!(tag, %error, "an old image with the guest stays");
                }
            }
        }
    }
}

fn is_old(image: &ImageSummary, now: SystemTime) -> bool {
    let is_ours = image.labels.get(LABEL_GUEST).is_some_and(|guest| *guest == *GUEST_HASH);
    age(image.created, now) > if is_ours { OLD } else { OLD_FOR_OTHERS }
}

fn age(created: i64, now: SystemTime) -> Duration {
    let created = UNIX_EPOCH + Duration::from_secs(u64::try_from(created).unwrap_or(0));
    now.duration_since(created).unwrap_or_default()
}

/// The id of the image of this tag; made when the engine does not have it.
async fn make(engine: &Docker, image: &str, scope: &str, tag: &str) -> Result<String, Trouble> {
    match call(engine.inspect_image(&format!("{REPOSITORY}:{tag}"))).await {
        Ok(found) => return Ok(found.id.unwrap_or_default()),
        Err(error) if error.status() == Some(404) => {}
        Err(error) => return Err(error),
    }
    // It never runs; but an engine wants to know what would.
    let entrypoint = Some(vec![GUEST_PATH.to_owned()]);
    let body = ContainerCreateBody { image: Some(image.to_owned()), entrypoint, ..Default::default() };
    static N: AtomicU32 = AtomicU32::new(0);
    let name = format!("{REPOSITORY}-{tag}-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    call(engine.create_container(Some(options), body)).await?;
    let made = fill_and_commit(engine, &name, scope, tag).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    for attempt in 1..=REMOVALS {
        match call(engine.remove_container(&name, Some(options.clone()))).await {
            Err(error) if error.status() != Some(404) && attempt < REMOVALS => {
                // An engine that is being restarted.
                tracing::debug!(name, attempt, %error, "what an image was made with stays");
                tokio::time::sleep(Duration::from_millis(250) * attempt).await;
            }
            _ => break,
        }
    }
    made
}

async fn fill_and_commit(engine: &Docker, name: &str, scope: &str, tag: &str) -> Result<String, Trouble> {
    let archive = belongings(scope).map_err(|error| Trouble::Engine(error.into()))?;
    let upload = UploadToContainerOptionsBuilder::new().path("/").build();
    call(engine.upload_to_container(name, Some(upload), bollard::body_full(archive))).await?;
    let options = CommitContainerOptionsBuilder::new().container(name).repo(REPOSITORY).tag(tag).build();
    let labels = HashMap::from([(LABEL_GUEST.to_owned(), GUEST_HASH.clone())]);
    let config = ContainerConfig { labels: Some(labels), ..ContainerConfig::default() };
    Ok(call(engine.commit_container(options, config)).await?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_and_each_user_has_its_own_and_one_that_is_old_goes() {
        assert_eq!(tag("a@sha256:1", "octo/widgets"), tag("a@sha256:1", "octo/widgets"));
        assert_ne!(tag("a@sha256:1", "octo/widgets"), tag("a@sha256:2", "octo/widgets"));
        assert_ne!(tag("a@sha256:1", "octo/widgets"), tag("a@sha256:1", "octo/gears"));

        let image = |guest: &str| ImageSummary {
            created: 1_000_000,
            labels: HashMap::from([(LABEL_GUEST.to_owned(), guest.to_owned())]),
            ..ImageSummary::default()
        };
        let after = |days: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + days * 24 * 3600 + 1);
        let old = |guest: &str| [0, 1, 6, 7].map(|days| is_old(&image(guest), after(days)));
        assert_eq!(old(&GUEST_HASH), [false, false, false, true]);
        assert_eq!(old("another"), [false, true, true, true]);
    }

    #[test]
    fn what_could_not_be_made_is_not_tried_at_every_start() {
        let prepared = Prepared::default();
        assert!(prepared.begin("a") && !prepared.begin("a"), "one makes it");
        prepared.lock().insert("a".into(), State::Failed(Instant::now()));
        assert!(!prepared.begin("a"));
        let tag = tag("image", "scope");
        prepared.lock().insert(tag.clone(), State::Ready("sha256:1".into()));
        assert_eq!(prepared.get("image", "scope").as_deref(), Some("sha256:1"));
        prepared.forget("image", "scope");
        assert!(prepared.get("image", "scope").is_none() && prepared.begin(&tag));
    }
}
