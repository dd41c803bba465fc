//! The recorded bodies and signature vectors in `tests/fixtures/novu/`.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct SignatureVectors {
    pub(super) secret: String,
    pub(super) vectors: Vec<SignatureVector>,
}

#[derive(Deserialize)]
pub(super) struct SignatureVector {
    pub(super) file: String,
    pub(super) id: String,
    pub(super) timestamp: String,
    pub(super) signature: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/novu")
}

pub(super) fn signature_vectors() -> SignatureVectors {
    let text = std::fs::read(folder().join("signature-vectors.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The exact bytes of one recorded body, such as `message.sent.sms`.
pub(super) fn body(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("webhooks").join(format!("{name}.json"))).unwrap()
}

/// A recorded body, changed.
pub(super) fn body_with(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(&body(name)).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

/// The names of all recorded bodies, in order.
pub(super) fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder().join("webhooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".json").unwrap().to_owned())
        .collect();
    names.sort();
    names
}
