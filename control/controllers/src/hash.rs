//! Short names for pod templates.

use k8s_openapi::serde::Serialize;
use sha2::{Digest, Sha256};

/// No vowels and nothing that looks like another: what users see in pod names.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 10;

/// A hash of `template` that is stable across restarts; `collisions` tells apart templates that
/// would get the same.
pub(crate) fn of(template: &impl Serialize, collisions: Option<i32>) -> String {
    let mut hasher = Sha256::new();
    // Struct fields have an order and maps are sorted, so the text is the same every time.
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if let Some(collisions) = collisions {
        hasher.update(collisions.to_le_bytes());
    }
    let digest = hasher.finalize();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.iter().take(LENGTH).map(letter).collect()
}
