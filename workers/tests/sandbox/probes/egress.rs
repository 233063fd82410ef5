//! Tries to get out of a sandbox, one way for each line of its standard input, and tells what came of it. Compiled by the
//! test into a static program with nothing but the standard library.

use std::{
    io::{BufRead, Read, Write, stdin, stdout},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// What a canary would hear.
const WORDS: &[u8] = b"canary-probe\n";
const LIMIT: Duration = Duration::from_secs(3);

unsafe extern "C" {
    fn socket(family: i32, kind: i32, protocol: i32) -> i32;
    fn sendto(fd: i32, bytes: *const u8, length: usize, flags: i32, address: *const u8, address_length: u32) -> isize;
}

fn main() {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line.expect("text");
        let (kind, what) = line.split_once('\t').expect("kind and what");
        let (verdict, words) = match attempt(kind, what) {
            Ok(words) => ("allowed", words),
            Err(words) => ("refused", words),
        };
        writeln!(out, "{kind}\t{what}\t{verdict}\t{}", words.replace(['\t', '\n', '\r'], " ")).expect("somebody reads");
    }
}

/// `Ok`: it got out.
fn attempt(kind: &str, what: &str) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let address = || what.parse::<SocketAddr>().map_err(|error| error.to_string());
    match kind {
        "tcp" => {
            let mut stream = TcpStream::connect_timeout(&address()?, LIMIT).map_err(text)?;
            stream.write_all(WORDS).map_err(text)?;
            Ok("connected".into())
        }
        "udp" => {
            let to = address()?;
            let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(from).map_err(text)?;
            socket.send_to(WORDS, to).map_err(text)?;
            Ok("sent".into())
        }
        "ping" | "raw" => icmp(address()?, kind == "raw"),
        "resolve" => {
            let found: Vec<_> = (what, 80).to_socket_addrs().map_err(text)?.collect();
            Ok(format!("{found:?}"))
        }
        "proxy" => ask(8098, what),
        "gateway" => ask(8099, what),
        _ => Err("no such probe".into()),
    }
}

fn icmp(to: SocketAddr, raw: bool) -> Result<String, String> {
    let (family, protocol, echo) = if to.is_ipv4() { (2, 1, 8) } else { (10, 58, 128) };
    // SAFETY: numbers in, a descriptor or an error out.
    let fd = unsafe { socket(family, if raw { 3 } else { 2 }, protocol) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut place = Vec::new();
    place.extend((family as u16).to_ne_bytes());
    match to {
        SocketAddr::V4(to) => {
            place.extend([0, 0]);
            place.extend(to.ip().octets());
            place.extend([0; 8]);
        }
        SocketAddr::V6(to) => {
            place.extend([0; 6]);
            place.extend(to.ip().octets());
            place.extend([0; 4]);
        }
    }
    let packet = [echo, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
    // SAFETY: both buffers live until the call has returned, and their lengths are their own.
    let sent = unsafe { sendto(fd.as_raw_fd(), packet.as_ptr(), packet.len(), 0, place.as_ptr(), place.len() as u32) };
    match sent {
        0.. => Ok("sent".into()),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

/// Sends bytes, written as hexadecimal, to a port of loopback. A status of success is a way out.
fn ask(port: u16, hexadecimal: &str) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let digits: Vec<u8> = hexadecimal.bytes().map(|digit| (digit as char).to_digit(16).expect("a digit") as u8).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), LIMIT).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(text)?;
    stream.write_all(&bytes).map_err(text)?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < 4096 && !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
        }
    }
    let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(status),
        _ => Err(if status.is_empty() { "closed".into() } else { status }),
    }
}
