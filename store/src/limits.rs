//! What a commit may be. The bounds are those of etcd as it is shipped, and hold for both engines, so that nothing works
//! on one of them only.

use crate::{Action, StoreError, Write};
use std::collections::HashSet;

/// How many writes a commit may have (etcd's `--max-txn-ops`).
pub const MAX_WRITES: usize = 128;
/// How long a key may be.
pub const MAX_KEY_BYTES: usize = 4096;
/// How large the keys and values of a commit may be together. With the framing of a request it stays below etcd's
/// `--max-request-bytes` of 1.5 MiB.
pub const MAX_COMMIT_BYTES: usize = 1_450_000;

/// Whether a key can exist.
pub(crate) fn is_key(key: &[u8]) -> bool {
    !key.is_empty() && key.len() <= MAX_KEY_BYTES
}

/// Refuses a commit that is not within the bounds.
pub(crate) fn check(writes: &[Write]) -> Result<(), StoreError> {
    let invalid = |reason: String| Err(StoreError::Invalid { reason });
    if writes.len() > MAX_WRITES {
        return invalid(format!("it has {} writes; at most {MAX_WRITES} are possible", writes.len()));
    }
    let mut seen = HashSet::with_capacity(writes.len());
    let mut bytes = 0;
    for write in writes {
        if !is_key(&write.key) {
            return invalid(format!("a key has {} bytes; 1 to {MAX_KEY_BYTES} are possible", write.key.len()));
        }
        if !seen.insert(&write.key[..]) {
            return invalid(format!("key {} is written twice", write.key.escape_ascii()));
        }
        let value = if let Action::Put(value) = &write.action { value.len() } else { 0 };
        bytes += write.key.len() + value;
    }
    if bytes > MAX_COMMIT_BYTES {
        return invalid(format!("its keys and values have {bytes} bytes; at most {MAX_COMMIT_BYTES} are possible"));
    }
    Ok(())
}
