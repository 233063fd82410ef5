//! The second pair of eyes on what boxes write: from outside, where nothing inside can look away.
//!
//! The guest holds the cap on the disk and names it; should a guest ever fail to, its box is ended from here before the
//! host runs full. So this one looks rarely and only speaks up well beyond the cap.

use std::{sync::PoisonError, time::Duration};

use tokio_util::sync::CancellationToken;

use super::pool::Sandboxes;

/// How often boxes are looked at.
const INTERVAL: Duration = Duration::from_secs(30);

impl Sandboxes {
    /// Ends every box that holds a quarter more on the disk than it may. Returns their names.
    pub async fn watch_once(&self) -> Vec<String> {
        let mut ended = Vec::new();
        for (name, disk_bytes) in self.disk_caps() {
            let Some(used_bytes) = self.backend().used_bytes(&name).await else { continue };
            if used_bytes <= disk_bytes.saturating_add(disk_bytes / 4) {
                continue;
            }
            tracing::warn!(sandbox.name = name, used_bytes, disk_bytes, "a sandbox outgrew its disk and is ended");
            match self.backend().stop(&name).await {
                Ok(()) => ended.push(name),
                Err(error) => tracing::warn!(sandbox.name = name, %error, "it could not be ended"),
            }
        }
        ended
    }

    /// Watches until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => drop(self.watch_once().await),
            }
        }
    }

    /// The boxes that somebody holds, with what each may write.
    fn disk_caps(&self) -> Vec<(String, u64)> {
        let mut caps = self.disk_caps.lock().unwrap_or_else(PoisonError::into_inner);
        caps.retain(|name, _| self.holds(name));
        caps.iter().map(|(name, cap)| (name.clone(), *cap)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use bytes::Bytes;
    use guest::protocol::{ToWorker, VERSION};
    use tasks::Failure;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::sandbox::{Limits, SandboxBackend, SandboxError, SandboxSpec, Started, pool::PoolOptions};

    /// Boxes whose guest says hello and nothing else, each with as much on the disk as its name says.
    #[derive(Debug, Default)]
    struct Boxes(Mutex<Vec<String>>);

    #[async_trait]
    impl SandboxBackend for Boxes {
        async fn start(&self, _spec: &SandboxSpec) -> Result<Started, SandboxError> {
            let (ours, mut guests) = duplex(1 << 16);
            tokio::spawn(async move {
                let mut frame = Vec::new();
                ToWorker::Hello { version: VERSION, pid: 1 }.encode(0, &mut frame);
                guests.write_all(&frame).await.unwrap();
                let mut rest = Vec::new();
                guests.read_to_end(&mut rest).await.unwrap();
            });
            Ok(Started { stream: Box::new(ours), kind: "made up", environment: String::new() })
        }
        async fn build_image(&self, _: Bytes, _: &str, _: &str) -> Result<String, Failure> {
            Err(Failure::internal("none"))
        }
        async fn used_bytes(&self, name: &str) -> Option<u64> {
            name.rsplit('-').next()?.parse().ok()
        }
        async fn stop(&self, name: &str) -> Result<(), SandboxError> {
            self.0.lock().unwrap().push(name.to_owned());
            Ok(())
        }
        async fn sweep(&self, _: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn a_box_that_outgrew_its_disk_is_ended_from_outside() {
        let boxes = Arc::new(Boxes::default());
        let sandboxes = Sandboxes::new(boxes.clone(), PoolOptions::default());
        let mut open = Vec::new();
        for name in ["box-100", "box-125", "box-126"] {
            let limits = Limits { disk_bytes: 100, ..Limits::default() };
            open.push(sandboxes.open(&SandboxSpec { limits, ..SandboxSpec::new(name) }).await.unwrap());
        }
        assert_eq!(sandboxes.watch_once().await, ["box-126"], "the guest's own cap has a margin");
        drop(open);
        sandboxes.settle().await;
        assert_eq!(sandboxes.watch_once().await, [] as [&str; 0], "nobody looks at what is gone");
        assert_eq!(boxes.0.lock().unwrap().iter().filter(|name| *name == "box-100").count(), 1);
    }
}
