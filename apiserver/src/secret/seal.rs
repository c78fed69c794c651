//! Encryption at the border to the store: a store that seals what is written below the keys of Secrets and opens what is read,
//! so that caches, lists and watches know nothing of it, and the disk, etcd and backups nothing of the values.
//!
//! A sealed value is `sealed:<name of the key>:`, 12 random bytes, and the value in AES-256-GCM with the key that it is stored
//! under as associated data: a value that is moved to another object does not open.

use crate::keys::kind_prefix;
use basalt_store::{
    Action, Change, CommitError, Entry, Expect, Previous, Range, Revision, Store, StoreError, WatchError, WatchStream, Write, prefix_end,
};
use bytes::Bytes;
use futures::StreamExt;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use std::{collections::HashSet, fmt, sync::Arc};

const MARK: &[u8] = b"sealed:";
/// Where it is written which keys a store is sealed with.
const PROOF: &[u8] = b"/seal";
const KEY_BYTES: usize = 32;
/// How often a Secret that others change meanwhile is sealed anew.
const TRIES: usize = 20;

/// Keys that values are sealed with: the first seals, all open.
#[derive(Clone)]
pub struct Keys(Arc<Vec<(String, LessSafeKey)>>);

/// The names of the keys, and nothing of the keys themselves.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A line is not a key.
    #[error("line {0} is not a key: expected a name of letters, digits and dashes, a space, and 64 hexadecimal digits")]
    Line(usize),
    /// A name is given twice.
    #[error("line {0} gives a name that an earlier line has")]
    Twice(usize),
    /// There is none.
    #[error("it holds no key")]
    None,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// What is stored cannot be opened with the keys that there are.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is sealed with a key that is not among them.
    #[error("{place} is sealed with the key {key:?}, which is not among the keys of this server")]
    MissingKey {
        /// Where it is in the store.
        place: String,
        /// The name of the key.
        key: String,
    },
    /// It is no sealed value, or was changed or moved, or the key of that name is another one.
    #[error("{place} cannot be opened: the key of its name is another one, or what is stored was changed")]
    Forged {
        /// Where it is in the store.
        place: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A value cannot be sealed.
    #[error("the system gives no random bytes")]
    Random,
    /// Others keep changing it.
    #[error("{place} cannot be sealed with the newest key, for others keep changing it")]
    Busy {
        /// Where it is in the store.
        place: String,
    },
}

impl Keys {
    /// Reads a file of keys: one in a line, a name and 64 hexadecimal digits; empty lines and those that begin with `#` mean nothing.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let (mut keys, mut names) = (Vec::new(), HashSet::new());
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, digits) = line.split_once(' ').ok_or(KeysError::Line(number))?;
            let good = !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let key = unhex(digits.trim()).filter(|_| good).and_then(|key| UnboundKey::new(&AES_256_GCM, &key).ok());
            let key = key.ok_or(KeysError::Line(number))?;
            if !names.insert(name.to_owned()) {
                return Err(KeysError::Twice(number));
            }
            keys.push((name.to_owned(), LessSafeKey::new(key)));
        }
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self(Arc::new(keys))) }
    }

    /// A line with a new key.
    pub fn generate(name: &str) -> Result<String, KeysError> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| KeysError::Random)?;
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{name} {digits}\n"))
    }

    fn first(&self) -> Option<&(String, LessSafeKey)> {
        self.0.first()
    }

    fn seal(&self, place: &[u8], value: &[u8]) -> Option<Bytes> {
        let (name, key) = self.first()?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = value.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed).ok()?;
        Some([MARK, name.as_bytes(), b":", &nonce, &sealed].concat().into())
    }

    fn open(&self, place: &[u8], stored: &[u8]) -> Result<Bytes, SealError> {
        let forged = || SealError::Forged { place: place.escape_ascii().to_string() };
        let name = key_of(stored).ok_or_else(forged)?;
        let Some((_, key)) = self.0.iter().find(|(own, _)| own == name) else {
            return Err(SealError::MissingKey { place: place.escape_ascii().to_string(), key: name.to_owned() });
        };
        let rest = &stored[MARK.len() + name.len() + 1..];
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or_else(forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| forged())?;
        let mut opened = sealed.to_vec();
        let length = key.open_in_place(nonce, Aad::from(place), &mut opened).map_err(|_| forged())?.len();
        opened.truncate(length);
        Ok(opened.into())
    }

    /// Sees that all that is sealed in a store can be opened, and seals with the first key what is sealed with another.
    pub async fn take_up(&self, store: &dyn Store) -> Result<(), SealError> {
        let proof = store.get(PROOF).await?;
        let start = kind_prefix("", "secrets").into_bytes();
        for entry in store.range(&start, &prefix_end(&start), 0).await?.entries.into_iter().chain(proof) {
            self.renew(store, entry).await?;
        }
        if store.get(PROOF).await?.is_none() {
            let value = self.seal(PROOF, b"{}").ok_or(SealError::Random)?;
            let write = Write { key: Bytes::from_static(PROOF), expect: Expect::Absent, action: Action::Put(value) };
            match store.commit(vec![write]).await {
                // Another gateway was first: its keys must be ours.
                Err(CommitError::Conflict { current: Some(current), .. }) => drop(self.open(PROOF, &current.value)?),
                Err(CommitError::Store(error)) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn renew(&self, store: &dyn Store, mut entry: Entry) -> Result<(), SealError> {
        for _ in 0..TRIES {
            let opened = self.open(&entry.key, &entry.value)?;
            if key_of(&entry.value) == self.first().map(|(name, _)| name.as_str()) {
                return Ok(());
            }
            let action = Action::Put(self.seal(&entry.key, &opened).ok_or(SealError::Random)?);
            let write = Write { key: entry.key.clone(), expect: Expect::At(entry.modified), action };
            match store.commit(vec![write]).await {
                Ok(_) | Err(CommitError::Conflict { current: None, .. }) => return Ok(()),
                Err(CommitError::Conflict { current: Some(current), .. }) => entry = current,
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(SealError::Busy { place: entry.key.escape_ascii().to_string() })
    }
}

/// The name of the key that a value is sealed with.
fn key_of(stored: &[u8]) -> Option<&str> {
    let rest = stored.strip_prefix(MARK)?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn unhex(digits: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    if digits.len() != 2 * KEY_BYTES || !digits.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Seals what is written below the keys of Secrets, opens what is read, and passes everything else on.
pub struct Sealed {
    store: Arc<dyn Store>,
    opener: Opener,
}

#[derive(Clone)]
struct Opener {
    keys: Keys,
    prefix: Arc<[u8]>,
}

impl Sealed {
    /// Over a store.
    pub fn new(store: Arc<dyn Store>, keys: Keys) -> Self {
        let prefix = kind_prefix("", "secrets").into_bytes().into();
        Self { store, opener: Opener { keys, prefix } }
    }
}

impl Opener {
    fn entry(&self, entry: &mut Entry) {
        if entry.key.starts_with(&self.prefix) {
            // What does not open is nothing that can be read as an object, and is left out as such.
            entry.value = self.keys.open(&entry.key, &entry.value).unwrap_or_else(|error| {
                tracing::error!("{error}");
                Bytes::new()
            });
        }
    }

    fn change(&self, change: &mut Change) {
        let (entry, previous) = match change {
            Change::Put { entry, previous } => (Some(entry), previous),
            Change::Delete { previous, .. } => (None, previous),
        };
        entry.into_iter().chain(previous).for_each(|entry| self.entry(entry));
    }
}

#[async_trait::async_trait]
impl Store for Sealed {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let mut found = self.store.get(key).await?;
        found.iter_mut().for_each(|entry| self.opener.entry(entry));
        Ok(found)
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        let mut range = self.store.range(start, end, limit).await?;
        range.entries.iter_mut().for_each(|entry| self.opener.entry(entry));
        Ok(range)
    }

    async fn commit(&self, mut writes: Vec<Write>) -> Result<Revision, CommitError> {
        for write in writes.iter_mut().filter(|write| write.key.starts_with(&self.opener.prefix)) {
            if let Action::Put(value) = &mut write.action {
                let sealed = self.opener.keys.seal(&write.key, value);
                *value =
                    sealed.ok_or_else(|| StoreError::Refused { operation: "seal", reason: "the system gives no random bytes".into() })?;
            }
        }
        self.store.commit(writes).await.map_err(|error| match error {
            CommitError::Conflict { key, mut current } => {
                current.iter_mut().for_each(|entry| self.opener.entry(entry));
                CommitError::Conflict { key, current }
            }
            other => other,
        })
    }

    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError> {
        let opener = self.opener.clone();
        let stream = self.store.watch(prefix, after, previous).await?;
        let opened = stream.map(move |event| {
            event.map(|mut event| {
                event.changes.iter_mut().for_each(|change| opener.change(change));
                event
            })
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> String {
        names.iter().map(|name| Keys::generate(name).unwrap()).collect()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_at_its_place_and_unchanged_only() {
        let (one, two) = (keys(&["one"]), keys(&["two"]));
        let (first, both) = (Keys::parse(&one).unwrap(), Keys::parse(&(two.clone() + &one)).unwrap());
        let sealed = first.seal(b"/a", b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_ne!(sealed, first.seal(b"/a", b"hunter2").unwrap());
        assert_eq!(both.open(b"/a", &sealed).unwrap(), "hunter2");
        assert!(matches!(both.open(b"/b", &sealed), Err(SealError::Forged { .. })));
        assert!(matches!(Keys::parse(&two).unwrap().open(b"/a", &sealed), Err(SealError::MissingKey { .. })));
        assert!(matches!(Keys::parse(&keys(&["one"])).unwrap().open(b"/a", &sealed), Err(SealError::Forged { .. })));
        for index in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[index] ^= 1;
            assert!(first.open(b"/a", &changed).is_err(), "byte {index}");
            assert!(first.open(b"/a", &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_file_of_keys_is_read_line_by_line_and_shown_by_names_only() {
        let line = keys(&["k-1"]);
        let read = Keys::parse(&format!("# from 2026\n\n{line}")).unwrap();
        assert_eq!(format!("{read:?}"), "[\"k-1\"]");
        assert!(matches!(Keys::parse("# none\n"), Err(KeysError::None)));
        assert!(matches!(Keys::parse(&format!("{line}{line}")), Err(KeysError::Twice(2))));
        for wrong in ["k", "k 00", &line.replace("k-1", "k:1"), &line.replace('\n', "0"), &format!("k {}", "é".repeat(32))] {
            assert!(matches!(Keys::parse(wrong), Err(KeysError::Line(1))), "{wrong}");
        }
    }
}
