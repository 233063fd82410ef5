//! Connections that programs inside a sandbox make to a port of its loopback interface, as streams out here.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use guest::protocol::{ToGuest, WINDOW, cost};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conversation::{Channel, Event};

/// The connections to one listener inside a sandbox. Dropping it closes those that nobody took, and all later ones.
#[derive(Debug)]
pub struct Tunnels {
    channel: Channel,
}

impl Tunnels {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// The next connection; `None` when the sandbox is gone.
    pub async fn accept(&mut self) -> Option<Tunnel> {
        loop {
            match self.channel.event().await.ok()? {
                Event::Accepted(channel) => return Some(Tunnel::new(channel)),
                other => tracing::debug!(?other, "a listener heard something else"),
            }
        }
    }
}

/// One connection that a program inside opened. Shutting down the writing side lets the program read its end while it
/// goes on sending. Dropping it delivers what was written, then closes the connection.
#[derive(Debug)]
pub struct Tunnel {
    channel: Channel,
    /// Came, but was not read yet.
    rest: Vec<u8>,
    read: usize,
    /// Was read, but not granted again yet.
    owed: u32,
    ended: bool,
    shut: bool,
}

impl Tunnel {
    fn new(channel: Channel) -> Self {
        Self { channel, rest: Vec::new(), read: 0, owed: 0, ended: false, shut: false }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read == this.rest.len() && !this.ended {
            match ready!(this.channel.poll_event(cx)) {
                Some(Event::Data(bytes)) => {
                    this.owed += cost(bytes.len());
                    (this.rest, this.read) = (bytes, 0);
                }
                Some(Event::Eof) => this.ended = true,
                Some(_) | None => {
                    this.ended = true;
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let n = buf.remaining().min(this.rest.len() - this.read);
        buf.put_slice(&this.rest[this.read..this.read + n]);
        this.read += n;
        if this.read == this.rest.len() && this.owed >= WINDOW / 4 {
            this.channel.grant(std::mem::take(&mut this.owed));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match ready!(self.channel.poll_credit(cx, buf.len())) {
            0 => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            n => {
                self.channel.send(&ToGuest::Data(&buf[..n]));
                Poll::Ready(Ok(n))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.shut, true) {
            self.channel.send(&ToGuest::Eof);
        }
        Poll::Ready(Ok(()))
    }
}
