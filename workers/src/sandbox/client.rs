//! Stub: owned by the sandbox room.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ChangedPath, Command, Exit, Output, SandboxBackend, SandboxError, SandboxSpec, TreeFile};

/// A running sandbox. Dropping it without [`Sandbox::stop`] leaves the box to the sweep.
pub struct Sandbox {}

impl Sandbox {
    /// Starts a box, greets its guest and checks the versions.
    pub async fn start(_backend: Arc<dyn SandboxBackend>, _spec: &SandboxSpec) -> Result<Self, SandboxError> {
        todo!()
    }
    /// The environment for the evidence.
    pub fn environment(&self) -> &str {
        todo!()
    }
    /// `docker` or `namespace`.
    pub fn kind(&self) -> &'static str {
        todo!()
    }
    /// Runs a command to its end; `on_output` sees each piece as it arrives (bounded, never stalls the guest).
    pub async fn run(
        &self,
        _command: &Command,
        _on_output: &mut (dyn for<'a> FnMut(Output<'a>) + Send),
    ) -> Result<Exit, SandboxError> {
        todo!()
    }
    /// Writes files into the workspace, parents made, existing ones replaced, symlinks never followed.
    pub async fn put(&self, _files: Vec<TreeFile>) -> Result<(), SandboxError> {
        todo!()
    }
    /// Deletes files of the workspace (empty parents too).
    pub async fn delete(&self, _paths: Vec<Vec<u8>>) -> Result<(), SandboxError> {
        todo!()
    }
    /// Remembers how the workspace looks now.
    pub async fn mark(&self) -> Result<(), SandboxError> {
        todo!()
    }
    /// What looks different from the last mark, sorted by path.
    pub async fn changes(&self) -> Result<Vec<ChangedPath>, SandboxError> {
        todo!()
    }
    /// Reads files of the workspace without following links; at most `max_bytes` together.
    pub async fn get(&self, _paths: Vec<Vec<u8>>, _max_bytes: u64) -> Result<Vec<TreeFile>, SandboxError> {
        todo!()
    }
    /// Listens on 127.0.0.1:`port` inside; each connection there becomes a [`Tunnel`] here.
    pub async fn listen(&self, _port: u16) -> Result<Tunnels, SandboxError> {
        todo!()
    }
    /// Kills every process in the box but the guest, daemons too.
    pub async fn kill_all(&self) -> Result<(), SandboxError> {
        todo!()
    }
    /// Ends the box and removes all of it.
    pub async fn stop(self) -> Result<(), SandboxError> {
        todo!()
    }
}

/// The connections to one listener inside a sandbox.
pub struct Tunnels {}
impl Tunnels {
    /// The next connection; `None` when the sandbox is gone.
    pub async fn accept(&mut self) -> Option<Tunnel> {
        todo!()
    }
}

/// One connection that a program inside opened.
pub struct Tunnel {}
impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        todo!()
    }
}
impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &[u8]) -> Poll<std::io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        todo!()
    }
}
