//! The ledger: the newest manifest, on disk, so that the host goes on without the gateway and over a restart.

use crate::files::{self, FileError};
use basalt_proto::v1::HostManifest;
use prost::Message;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Bytes of the checksum before the manifest.
const CHECKSUM: usize = 32;

/// A manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is for another host.
    #[error("the manifest is for host {0}, not for this one")]
    Host(String),
    /// It comes from another control plane.
    #[error("the manifest is of control plane {theirs}, but this host belongs to {ours}. To move the host, empty its ledger directory")]
    Cluster {
        /// Whose it is.
        theirs: String,
        /// Whose the host is.
        ours: String,
    },
    /// It is older than the one that is here.
    #[error("the manifest is of generation {theirs}, older than {ours}")]
    Older {
        /// Its generation.
        theirs: u64,
        /// The generation that is here.
        ours: u64,
    },
    /// It cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The newest manifest of a host.
pub struct Ledger {
    file: PathBuf,
    host: String,
    manifest: Option<HostManifest>,
}

impl Ledger {
    /// Opens the ledger in a directory. One that is broken is set aside: VMs are not touched until a manifest comes.
    pub fn open(dir: &Path, host: &str) -> Result<Self, FileError> {
        files::make_dir(dir)?;
        let file = dir.join("manifest");
        let manifest = match files::read(&file)? {
            None => None,
            Some(stored) => match decode(&stored) {
                Some(manifest) => Some(manifest),
                None => {
                    let aside = dir.join("manifest.broken");
                    std::fs::rename(&file, &aside).map_err(FileError::at("set aside", &file))?;
                    tracing::error!(file = %aside.display(), "the ledger is broken and was set aside; VMs run on untouched until the gateway sends a manifest");
                    None
                }
            },
        };
        Ok(Self { file, host: host.to_owned(), manifest })
    }

    /// The manifest in a directory, if there is a whole one; nothing is touched.
    pub fn peek(dir: &Path) -> Option<HostManifest> {
        decode(&files::read(&dir.join("manifest")).ok().flatten()?)
    }

    /// The newest manifest.
    pub fn manifest(&self) -> Option<&HostManifest> {
        self.manifest.as_ref()
    }

    /// The generation of the newest manifest; 0 for none.
    pub fn generation(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.generation)
    }

    /// Takes a manifest in: it is on disk when this returns.
    pub fn take(&mut self, manifest: HostManifest) -> Result<(), Refused> {
        if manifest.host != self.host {
            return Err(Refused::Host(manifest.host));
        }
        if let Some(ours) = &self.manifest {
            if ours.cluster_uid != manifest.cluster_uid {
                return Err(Refused::Cluster { theirs: manifest.cluster_uid, ours: ours.cluster_uid.clone() });
            }
            if manifest.generation < ours.generation {
                return Err(Refused::Older { theirs: manifest.generation, ours: ours.generation });
            }
        }
        let content = manifest.encode_to_vec();
        let mut stored = Sha256::digest(&content).to_vec();
        stored.extend(content);
        files::write(&self.file, &stored, 0o600)?;
        self.manifest = Some(manifest);
        Ok(())
    }
}

fn decode(stored: &[u8]) -> Option<HostManifest> {
    let (checksum, content) = stored.split_at_checked(CHECKSUM)?;
    if Sha256::digest(content).as_slice() != checksum {
        return None;
    }
    HostManifest::decode(content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(generation: u64) -> HostManifest {
        HostManifest { cluster_uid: "c1".into(), host: "h1".into(), generation, ..HostManifest::default() }
    }

    #[test]
    fn a_manifest_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        Ledger::open(dir.path(), "h1").unwrap().take(manifest(7)).unwrap();
        assert_eq!(Ledger::open(dir.path(), "h1").unwrap().manifest(), Some(&manifest(7)));
    }

    #[test]
    fn manifests_of_others_and_older_ones_are_refused_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path(), "h1").unwrap();
        ledger.take(manifest(7)).unwrap();
        let refused = [
            ledger.take(manifest(6)),
            ledger.take(HostManifest { host: "h2".into(), ..manifest(8) }),
            ledger.take(HostManifest { cluster_uid: "c2".into(), ..manifest(8) }),
        ];
        assert!(matches!(refused, [Err(Refused::Older { .. }), Err(Refused::Host(_)), Err(Refused::Cluster { .. })]));
        assert_eq!(Ledger::open(dir.path(), "h1").unwrap().generation(), 7);
    }

    #[test]
    fn a_torn_or_flipped_ledger_is_set_aside_and_a_new_manifest_is_taken() {
        for damage in
            [|stored: &mut Vec<u8>| stored.truncate(40), |stored: &mut Vec<u8>| stored[35] ^= 1, |stored: &mut Vec<u8>| stored.clear()]
        {
            let dir = tempfile::tempdir().unwrap();
            Ledger::open(dir.path(), "h1").unwrap().take(manifest(7)).unwrap();
            let file = dir.path().join("manifest");
            let mut stored = std::fs::read(&file).unwrap();
            damage(&mut stored);
            std::fs::write(&file, stored).unwrap();
            let mut ledger = Ledger::open(dir.path(), "h1").unwrap();
            assert_eq!(ledger.manifest(), None);
            assert!(dir.path().join("manifest.broken").exists());
            ledger.take(manifest(8)).unwrap();
        }
    }
}
