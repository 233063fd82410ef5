//! The DSSE envelope: what is signed, and the one way in which it is written.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{Signer, check::Broken, key::PublicKey, statement::Statement};

/// What the payload is.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The largest envelope that is read, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// The envelope, in the order of its keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

impl Envelope {
    /// The file: one line.
    pub(super) fn sign(signer: &Signer, statement: &Statement) -> Result<String, serde_json::Error> {
        let payload = serde_json::to_vec(statement)?;
        let sig = STANDARD.encode(signer.sign(&pre_authentication(PAYLOAD_TYPE, &payload)));
        let envelope = Self {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: STANDARD.encode(&payload),
            signatures: vec![Signature { keyid: signer.public_key().id(), sig }],
        };
        envelope.written()
    }

    fn written(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// The statement that the envelope holds, when the key has signed it and not one byte is another.
    pub(super) fn open(text: &[u8], key: &PublicKey) -> Result<Statement, Broken> {
        if text.len() > MAX_BYTES {
            return Err(Broken::TooLarge);
        }
        let envelope: Self = serde_json::from_slice(text).map_err(|error| Broken::NoEnvelope(error.to_string()))?;
        // What reads the same and is written otherwise was changed by somebody, and nobody signed white space.
        if envelope.written().ok().as_deref().map(str::as_bytes) != Some(text) {
            return Err(Broken::NotCanonical);
        }
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(Broken::PayloadType(envelope.payload_type));
        }
        let [signature] = envelope.signatures.as_slice() else {
            return Err(Broken::Signatures(envelope.signatures.len()));
        };
        if signature.keyid != key.id() {
            return Err(Broken::OtherKey(signature.keyid.clone()));
        }
        let payload =
            STANDARD.decode(&envelope.payload).map_err(|error| Broken::Base64("payload", error.to_string()))?;
        let bytes = STANDARD.decode(&signature.sig).map_err(|error| Broken::Base64("signature", error.to_string()))?;
        if !key.verifies(&pre_authentication(&envelope.payload_type, &payload), &bytes) {
            return Err(Broken::BadSignature);
        }
        Statement::read(&payload)
    }
}

/// What DSSE signs: lengths before contents, so that no two pairs give the same bytes.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_those_of_the_specification() {
        let message = pre_authentication("http://example.com/HelloWorld", b"hello world");
        assert_eq!(message, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }
}
