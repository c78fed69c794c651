//! The file of the keys that Secrets are encrypted with: `DATA_DIR/secret-keys`, made at the first start. The first key encrypts,
//! all decrypt; `docs/access.md` says how they are rotated.

use crate::{GatewayError, pki};
use basalt_apiserver::secret::seal::Keys;
use std::path::Path;

const FILE: &str = "secret-keys";
const HEAD: &str = "# Keys of Secrets: the first encrypts, all decrypt. Without this file no Secret can be read, from a backup neither.\n";

/// Reads the keys, or makes the first.
pub fn open(data_dir: &Path) -> Result<Keys, GatewayError> {
    let path = data_dir.join(FILE);
    let failed = |source| GatewayError::SecretKeys { path: path.clone(), source };
    let text = match pki::read_secret(&path)? {
        Some(text) => text,
        None => {
            // No two files give the same name to different keys.
            let name = format!("key-{}", pki::hex(&pki::random::<6>()?));
            let text = HEAD.to_owned() + &Keys::generate(&name).map_err(failed)?;
            pki::write(&path, text.as_bytes(), 0o600)?;
            text
        }
    };
    Keys::parse(&text).map_err(failed)
}
