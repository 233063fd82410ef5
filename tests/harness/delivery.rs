//! Webhook deliveries as GitHub sends them: signed over the raw bytes, with GitHub's headers.

use std::net::SocketAddr;

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

/// The secret of the webhook in tests; also a canary that may show up nowhere.
pub const WEBHOOK_SECRET: &str = "canary-webhook-secret-3f9d";

/// One delivery. Sending it twice is a redelivery: same id, same bytes.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// `X-GitHub-Event`.
    pub event: &'static str,
    /// `X-GitHub-Delivery`.
    pub id: String,
    /// The raw body.
    pub body: Vec<u8>,
    /// `X-Hub-Signature-256`.
    pub signature: String,
}

impl Delivery {
    /// A delivery of this payload, signed with [`WEBHOOK_SECRET`] under a fresh id.
    pub fn new(event: &'static str, payload: &Value) -> Self {
        // GitHub writes its JSON as one line; any bytes would do, as long as just these are signed.
        let body = payload.to_string().into_bytes();
        let signature = signature(WEBHOOK_SECRET, &body);
        Self { event, id: uuid::Uuid::now_v7().to_string(), body, signature }
    }

    /// The same bytes, signed by somebody who does not know the secret.
    #[must_use]
    pub fn signed_with(mut self, secret: &str) -> Self {
        self.signature = signature(secret, &self.body);
        self
    }

    /// Sends it to a door and returns the status of the answer and its body.
    ///
    /// # Panics
    /// When the door does not answer within GitHub's ten seconds.
    pub async fn send(&self, door: SocketAddr) -> (u16, String) {
        let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(10)).no_proxy();
        let request = client
            .build()
            .expect("a client without options that can fail")
            .post(format!("http://{door}{PATH}"))
            .header("content-type", "application/json")
            .header("user-agent", "GitHub-Hookshot/044aadd")
            .header("x-github-event", self.event)
            .header("x-github-delivery", &self.id)
            .header("x-hub-signature-256", &self.signature)
            .body(self.body.clone());
        let answer = request.send().await.expect("the door answers");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("the answer has a body"))
    }
}

/// Where the door takes deliveries of GitHub.
pub const PATH: &str = "/hooks/github";

fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}
