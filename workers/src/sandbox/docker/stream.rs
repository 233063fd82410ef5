//! The streams of a container as the stream of its guest.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bollard::container::{AttachContainerResults, LogOutput};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Standard input and output. What the guest writes to its standard error, it says to the log.
pub(super) struct Attached {
    streams: AttachContainerResults,
    rest: Bytes,
    name: String,
}

impl Attached {
    pub(super) fn new(streams: AttachContainerResults, name: &str) -> Self {
        Self { streams, rest: Bytes::new(), name: name.to_owned() }
    }
}

impl AsyncRead for Attached {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.streams.output.poll_next_unpin(cx)) {
                Some(Ok(LogOutput::StdOut { message })) => this.rest = message,
                Some(Ok(LogOutput::StdErr { message })) => {
                    let text = String::from_utf8_lossy(&message[..message.len().min(400)]).into_owned();
                    tracing::debug!(sandbox.name = this.name, text, "the guest says");
                }
                Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. })) => {
                    return Poll::Ready(Err(io::Error::other("the engine sent something else than two streams")));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = buf.remaining().min(this.rest.len());
        buf.put_slice(&this.rest[..n]);
        this.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Attached {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.streams.input.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_shutdown(cx)
    }
}
