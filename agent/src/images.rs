//! Images: the file that an Image means on this host, checked before a VM uses it.

use basalt_api::{
    Memory, ObjectReference,
    common::BlockedCode,
    image::{ImageOnHost, ImageSpec, Presence},
    virtual_machine::Problem,
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A file at one moment: a digest holds as long as this does.
type Stamp = (PathBuf, u64, u64, i64, i64);

/// The digests of files that were read, so that a VM's start does not read its disk every time.
#[derive(Default)]
pub struct Images {
    digests: Mutex<HashMap<Stamp, String>>,
}

/// What is wrong with a file: the presence it amounts to, the reason, the details, and the size as far as it is known.
type Unfit = (Presence, BlockedCode, String, Option<u64>);

/// What a host found of an image, and why it cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// For the Image's status.
    pub seen: ImageOnHost,
    /// Where the file is, or what is wrong.
    pub file: Result<PathBuf, Problem>,
}

/// An image that was read as a whole and is what its digest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Where the file is.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// An image was not read as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It cannot be used; the text says why.
    Unfit(String),
    /// It was not to go on.
    Stopped,
}

impl Images {
    /// Looks at an image's file; reads all of it if it has a digest and has changed since it was last read.
    pub fn check(&self, name: &str, spec: Option<&ImageSpec>) -> Checked {
        let outcome = match spec {
            None => Err((
                Presence::Missing,
                BlockedCode::ImageNotFound,
                format!("There is no Image {name:?}. Create it, or name another"),
                None,
            )),
            Some(spec) => self.look(name, spec),
        };
        let seen = |presence, size: Option<u64>, message| ImageOnHost { host: String::new(), presence, size: size.map(Memory), message };
        match outcome {
            Ok((path, size)) => Checked { seen: seen(Presence::Present, Some(size), None), file: Ok(path) },
            Err((presence, code, message, size)) => {
                let problem = Problem { code, object: Some(ObjectReference::image(name)), message: message.clone(), retry_at: None };
                Checked { seen: seen(presence, size, Some(message)), file: Err(problem) }
            }
        }
    }

    /// Reads all of an image's file and verifies it; `go_on` is told after each block how much is read of how much, and says whether
    /// to go on. A digest that was found is kept, so that the file is not read again for a VM's start.
    pub fn read(&self, name: &str, spec: &ImageSpec, mut go_on: impl FnMut(u64, u64) -> bool) -> Result<Whole, Unread> {
        let unfit = |(_, _, message, _): Unfit| Unread::Unfit(message);
        let (path, metadata) = locate(name, spec).map_err(unfit)?;
        let stamp = stamp(&path, &metadata);
        let unreadable = |error: io::Error| Unread::Unfit(format!("{} of image {name} cannot be read: {error}", path.display()));
        let Some(digest) = sha256(&path, |read| go_on(read, metadata.len())).map_err(unreadable)? else { return Err(Unread::Stopped) };
        let after = fs::metadata(&path).map_err(unreadable)?;
        if self::stamp(&path, &after) != stamp {
            return Err(Unread::Unfit(format!("{} of image {name} was changed while it was read", path.display())));
        }
        self.digests().insert(stamp, digest.clone());
        verify(name, spec, &path, metadata.len(), &digest).map_err(unfit)?;
        Ok(Whole { path, bytes: metadata.len(), sha256: digest })
    }

    fn look(&self, name: &str, spec: &ImageSpec) -> Result<(PathBuf, u64), Unfit> {
        let (path, metadata) = locate(name, spec)?;
        let size = metadata.len();
        if spec.sha256.is_some() {
            let has = self.digest(stamp(&path, &metadata)).map_err(|e| {
                let message = format!("{} of image {name} cannot be read: {e}", path.display());
                (Presence::Unusable, BlockedCode::ImageUnusable, message, Some(size))
            })?;
            verify(name, spec, &path, size, &has)?;
        }
        Ok((path, size))
    }

    fn digest(&self, stamp: Stamp) -> io::Result<String> {
        if let Some(known) = self.digests().get(&stamp) {
            return Ok(known.clone());
        }
        let digest = sha256(&stamp.0, |_| true)?.unwrap_or_default();
        self.digests().insert(stamp, digest.clone());
        Ok(digest)
    }

    fn digests(&self) -> MutexGuard<'_, HashMap<Stamp, String>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path, metadata: &fs::Metadata) -> Stamp {
    (path.to_owned(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Finds the file of an image, unread.
fn locate(name: &str, spec: &ImageSpec) -> Result<(PathBuf, fs::Metadata), Unfit> {
    let wrong = |presence, message: String, size| (presence, BlockedCode::ImageUnusable, message, size);
    let path = spec.source.strip_prefix("file://").map(PathBuf::from);
    let path = path.ok_or_else(|| {
        wrong(Presence::Unusable, format!("The source {:?} of image {name} is not a file:/// address", spec.source), None)
    })?;
    let metadata = fs::metadata(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => wrong(
            Presence::Missing,
            format!("{} of image {name} does not exist on this host. Put it there, or correct the source", path.display()),
            None,
        ),
        _ => wrong(Presence::Unusable, format!("{} of image {name} cannot be looked at: {e}", path.display()), None),
    })?;
    if !metadata.is_file() {
        return Err(wrong(Presence::Unusable, format!("{} of image {name} is not a regular file", path.display()), None));
    }
    if let Err(e) = fs::File::open(&path) {
        let message = format!("{} of image {name} cannot be opened: {e}", path.display());
        return Err(wrong(Presence::Unusable, message, Some(metadata.len())));
    }
    Ok((path, metadata))
}

fn verify(name: &str, spec: &ImageSpec, path: &Path, size: u64, has: &str) -> Result<(), Unfit> {
    match &spec.sha256 {
        Some(wanted) if has != *wanted => {
            let message = format!("{} of image {name} has the SHA-256 {has}, but spec.sha256 is {wanted}", path.display());
            Err((Presence::Unusable, BlockedCode::ImageUnusable, message, Some(size)))
        }
        _ => Ok(()),
    }
}

/// The digest of a file, unless `go_on`, which is told how much is read, says otherwise.
fn sha256(path: &Path, mut go_on: impl FnMut(u64) -> bool) -> io::Result<Option<String>> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())),
            read => {
                hasher.update(&buffer[..read]);
                total += read as u64;
            }
        }
        if !go_on(total) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::image::ImageFormat;

    fn image(source: String, sha256: Option<&str>) -> ImageSpec {
        ImageSpec { source, sha256: sha256.map(str::to_owned), format: ImageFormat::Raw }
    }

    #[test]
    fn an_image_is_used_only_if_it_is_there_and_what_its_digest_says() {
        let dir = tempfile::tempdir().unwrap();
        let (file, images) = (dir.path().join("disk"), Images::default());
        let source = format!("file://{}", file.display());
        let missing = images.check("i", Some(&image(source.clone(), None)));
        assert_eq!(missing.seen.presence, Presence::Missing);
        assert!(missing.file.unwrap_err().message.contains(file.to_str().unwrap()));
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(images.check("i", Some(&image(source.clone(), None))).file, Ok(file.clone()));
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(images.check("i", Some(&image(source.clone(), Some(right)))).file, Ok(file.clone()));
        std::fs::write(&file, "abcd").unwrap();
        let changed = images.check("i", Some(&image(source, Some(right))));
        assert_eq!(changed.file.unwrap_err().code, BlockedCode::ImageUnusable);
        assert_eq!(images.check("i", None).file.unwrap_err().code, BlockedCode::ImageNotFound);
        let directory = images.check("i", Some(&image(format!("file://{}", dir.path().display()), None)));
        assert!(directory.file.unwrap_err().message.contains("regular file"));
    }
}
