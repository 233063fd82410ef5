//! The name that a TLS client asks for in its first message (RFC 8446, 4.1.2; RFC 6066, 3).
//!
//! A tunnel to one host must not be a way to another one behind the same front: many names share an address, and it is this
//! name that chooses among them.

/// What the begin of a connection says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// More bytes are needed.
    Unfinished,
    /// The name that is asked for.
    Name(String),
    /// It is TLS and names nobody.
    Nameless,
    /// It asks for a name that only the other side can read.
    Encrypted,
    /// It is not TLS.
    Other,
}

/// The most that a first message may take, in bytes.
pub(super) const MAX_BYTES: usize = 32 << 10;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// Reads what came so far.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // The message may be spread over several records.
        if let Some(length) = message.get(1..4).map(number)
            && message.len() >= 4 + length
        {
            return server_name(&message[4..4 + length]).unwrap_or(Hello::Other);
        }
        match rest {
            [] => return Hello::Unfinished,
            [kind, ..] if *kind != HANDSHAKE => return Hello::Other,
            [_, major, ..] if *major != 3 => return Hello::Other,
            [_, _, _, high, low, body @ ..] => {
                let length = number(&[*high, *low]);
                if length == 0 || message.len() + length > MAX_BYTES {
                    return Hello::Other;
                }
                let part = &body[..body.len().min(length)];
                message.extend_from_slice(part);
                if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                    return Hello::Other;
                }
                rest = &body[part.len()..];
            }
            _ => return Hello::Unfinished,
        }
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The name in the body of a client hello. `None`: it is none.
fn server_name(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    body.take(2 + 32)?; // version, random
    body.list(1)?; // session
    body.list(2)?; // cipher suites
    body.list(1)?; // compression
    if body.0.is_empty() {
        return Some(Hello::Nameless);
    }
    let mut extensions = Reader(body.list(2)?);
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = number(extensions.take(2)?);
        let mut content = Reader(extensions.list(2)?);
        if kind == usize::from(ENCRYPTED_HELLO) {
            return Some(Hello::Encrypted);
        }
        if kind == usize::from(SERVER_NAME) {
            let mut names = Reader(content.list(2)?);
            let is_host = names.take(1)? == [HOST_NAME];
            let name = names.list(2)?;
            // Two names could be read differently on the other side.
            if !is_host || found.is_some() || !names.0.is_empty() {
                return None;
            }
            found = Some(String::from_utf8(name.to_vec()).ok()?);
        }
    }
    Some(found.map_or(Hello::Nameless, Hello::Name))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// What follows its own length, which has so many bytes.
    fn list(&mut self, n_length: usize) -> Option<&'a [u8]> {
        let length = number(self.take(n_length)?);
        self.take(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client hello in one record. Empty `names`: without the extension.
    pub(crate) fn client_hello(names: &[&str]) -> Vec<u8> {
        let with_length = |n: usize, bytes: &[u8]| {
            let length = bytes.len().to_be_bytes();
            [&length[8 - n..], bytes].concat()
        };
        let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &with_length(2, content)].concat();
        let mut extensions = extension(16, &with_length(2, &with_length(1, b"h2")));
        if names.contains(&"(encrypted)") {
            extensions.extend(extension(ENCRYPTED_HELLO, &[0; 40]));
        }
        for name in names.iter().filter(|name| **name != "(encrypted)") {
            let entry = [&[HOST_NAME][..], &with_length(2, name.as_bytes())].concat();
            extensions.extend(extension(SERVER_NAME, &with_length(2, &entry)));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length(1, &[9; 32]),
            &with_length(2, &[0x13, 1]),
            &with_length(1, &[0]),
            &with_length(2, &extensions),
        ]
        .concat();
        let message = [&[CLIENT_HELLO][..], &with_length(3, &body)].concat();
        [&[HANDSHAKE, 3, 1][..], &with_length(2, &message)].concat()
    }

    #[test]
    fn the_name_is_found_when_the_message_is_whole_and_not_before() {
        let hello = client_hello(&["example.org"]);
        assert_eq!(read(&hello), Hello::Name("example.org".into()));
        for n in 0..hello.len() {
            assert_eq!(read(&hello[..n]), Hello::Unfinished, "{n} bytes");
        }
        let followed = [&hello[..], b"more"].concat();
        assert_eq!(read(&followed), Hello::Name("example.org".into()));
        // The same in two records.
        let message = &hello[5..];
        let (one, two) = message.split_at(50);
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 3, 0, part.len() as u8][..], part].concat();
        assert_eq!(read(&[record(one), record(two)].concat()), Hello::Name("example.org".into()));
    }

    #[test]
    fn what_names_nobody_or_two_or_is_no_tls_is_told_apart() {
        assert_eq!(read(&client_hello(&[])), Hello::Nameless);
        assert_eq!(read(&client_hello(&["(encrypted)"])), Hello::Encrypted);
        assert_eq!(read(&client_hello(&["a.example", "b.example"])), Hello::Other);
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", &[HANDSHAKE, 2, 0], &[HANDSHAKE, 3, 1, 0, 1, 2]] {
            assert_eq!(read(other), Hello::Other, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..120, put in any::<u8>()) {
            read(&bytes);
            let mut hello = client_hello(&["example.org"]);
            let at = cut.min(hello.len() - 1);
            hello[at] = put;
            read(&hello);
        }
    }
}
