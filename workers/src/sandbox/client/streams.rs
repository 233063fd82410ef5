//! What flows between a command and whoever runs it.

use std::task::{Context, Poll};

use guest::protocol::ToGuest;

use crate::sandbox::{conversation::Channel, translate::MAX_OUTPUT_BYTES};

/// Sends as much standard input as there is credit for.
pub(super) fn pump(channel: &Channel, stdin: &mut Option<&[u8]>, cx: &mut Context<'_>) {
    while let Some(rest) = stdin {
        if rest.is_empty() {
            channel.send(&ToGuest::Eof);
            *stdin = None;
            return;
        }
        match channel.poll_credit(cx, rest.len()) {
            Poll::Ready(0) | Poll::Pending => return,
            Poll::Ready(n) => {
                channel.send(&ToGuest::Data(&rest[..n]));
                *stdin = Some(&rest[n..]);
            }
        }
    }
}

/// Hands on what is within the cap. Returns how much there was.
pub(super) fn deliver(n_bytes: &mut u64, bytes: Vec<u8>, mut hand_on: impl FnMut(&[u8])) -> usize {
    let left = usize::try_from(MAX_OUTPUT_BYTES.saturating_sub(*n_bytes)).unwrap_or(usize::MAX);
    if left > 0 {
        hand_on(&bytes[..bytes.len().min(left)]);
    }
    *n_bytes += bytes.len() as u64;
    bytes.len()
}
