//! One connection that a program inside made to a listener of ours, carried to the worker.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsRawFd, RawFd},
};

use guest::protocol::{MAX_PAYLOAD, ToWorker};

use crate::flow::{Allowance, Got, Inbox, Outward};

pub(crate) struct Tunnel {
    channel: u32,
    stream: TcpStream,
    /// From the worker to the program.
    inbox: Inbox,
    /// From the program to the worker.
    allowance: Allowance,
    /// The program may still send.
    reads: bool,
    /// The worker may still send.
    writes: bool,
    broken: bool,
}

impl Tunnel {
    pub(crate) fn new(channel: u32, stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (inbox, allowance) = (Inbox::default(), Allowance::new());
        Ok(Self { channel, stream, inbox, allowance, reads: true, writes: true, broken: false })
    }

    pub(crate) fn push(&mut self, bytes: &[u8], outward: &Outward) {
        self.inbox.push(bytes);
        self.write(outward);
    }

    pub(crate) fn end(&mut self, outward: &Outward) {
        self.inbox.end();
        self.write(outward);
    }

    /// The worker reads no more. What it sent is still delivered.
    pub(crate) fn close(&mut self, outward: &Outward) {
        self.reads = false;
        self.end(outward);
    }

    pub(crate) fn add_credit(&mut self, bytes: u32) {
        self.allowance.add(bytes);
    }

    /// What to wait for: the descriptor, to read, to write. A tunnel that waits for the worker only is not watched.
    pub(crate) fn interest(&self) -> Option<(RawFd, bool, bool)> {
        let (read, write) = (self.reads && self.allowance.is_open(), self.inbox.is_waiting());
        (read || write).then(|| (self.stream.as_raw_fd(), read, write))
    }

    /// What was waited for may have happened.
    pub(crate) fn ready(&mut self, outward: &Outward, buffer: &mut [u8; MAX_PAYLOAD]) {
        if self.inbox.is_waiting() {
            self.write(outward);
        }
        if self.reads && self.allowance.is_open() {
            match self.allowance.read(&mut &self.stream, buffer) {
                Got::Bytes(bytes) => outward.send(self.channel, &ToWorker::Data(bytes)),
                Got::NothingYet => {}
                Got::End => {
                    self.reads = false;
                    outward.send(self.channel, &ToWorker::Eof);
                }
                Got::Broken => self.broken = true,
            }
        }
    }

    fn write(&mut self, outward: &Outward) {
        if self.inbox.write_to(&mut &self.stream).is_err() {
            self.broken = true;
        } else if self.writes && self.inbox.is_finished() {
            self.writes = false;
            self.broken |= self.stream.shutdown(Shutdown::Write).is_err();
        }
        if let Some(bytes) = self.inbox.take_owed() {
            outward.send(self.channel, &ToWorker::Credit(bytes));
        }
    }

    /// Nothing can go through it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.broken || !(self.reads || self.writes)
    }
}
