//! Both kinds of sandbox on one machine: who names an image gets the engine, who names none gets the machine's own tools.
//!
//! So a first run needs no image, and a repository that names one is never run in anything else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tasks::Failure;

use super::{KeptBase, SandboxBackend, SandboxError, SandboxSpec, Started, docker};

/// Chooses between an engine and the kernel's namespaces for each sandbox.
#[derive(Debug)]
pub struct AutoBackend {
    /// For those that name an image.
    pub engine: Arc<dyn SandboxBackend>,
    /// For those that name none.
    pub namespace: Arc<dyn SandboxBackend>,
}

impl AutoBackend {
    fn of(&self, image: Option<&str>) -> &dyn SandboxBackend {
        if image.is_some() { self.engine.as_ref() } else { self.namespace.as_ref() }
    }
}

#[async_trait]
impl SandboxBackend for AutoBackend {
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        self.of(spec.image.as_deref()).start(spec).await
    }

    async fn build_image(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure> {
        self.engine.build_image(context, dockerfile, tag).await
    }

    async fn could_show_gpus(&self, image: Option<&str>) -> Result<(), Failure> {
        match image {
            Some(_) => self.engine.could_show_gpus(image).await,
            None => self.namespace.could_show_gpus(image).await,
        }
    }

    fn environment_key(&self, image: Option<&str>) -> String {
        self.of(image).environment_key(image)
    }

    async fn environment(&self, image: Option<&str>) -> Result<String, Failure> {
        self.of(image).environment(image).await
    }

    async fn keep(&self, spec: &SandboxSpec, id: &str) -> Result<KeptBase, SandboxError> {
        self.of(spec.image.as_deref()).keep(spec, id).await
    }

    async fn remove_base(&self, base: &KeptBase) -> Result<(), SandboxError> {
        match base.kind.as_str() {
            docker::KIND => self.engine.remove_base(base).await,
            _ => self.namespace.remove_base(base).await,
        }
    }

    async fn bases(&self) -> Result<Vec<KeptBase>, SandboxError> {
        let mut bases = self.namespace.bases().await?;
        bases.extend(self.engine.bases().await?);
        Ok(bases)
    }

    async fn used_bytes(&self, name: &str) -> Option<u64> {
        match self.namespace.used_bytes(name).await {
            None => self.engine.used_bytes(name).await,
            found => found,
        }
    }

    async fn stop(&self, name: &str) -> Result<(), SandboxError> {
        let (engine, namespace) = tokio::join!(self.engine.stop(name), self.namespace.stop(name));
        engine.and(namespace)
    }

    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        Ok(self.engine.sweep(keep).await? + self.namespace.sweep(keep).await?)
    }
}
