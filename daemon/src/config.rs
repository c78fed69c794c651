//! Configuration in three layers: a YAML file, the environment, and flags, the later ones stronger.
//!
//! A program has one `clap` struct whose fields are all optional, with `env` on each; the same struct is what the file is
//! read into, so that every setting has one name and one meaning wherever it stands.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {path} is not usable: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The layers do not make a configuration.
    #[error("the configuration is not usable: {0}")]
    Merge(#[from] serde_json::Error),
}

/// The settings of `file`, overlaid with those of `given`: the environment and the flags, as clap parsed them.
/// A setting that is `None` in `given` leaves the file's alone.
pub fn layered<T: Serialize + DeserializeOwned>(given: &T, file: Option<&Path>) -> Result<T, ConfigError> {
    let mut settings = serde_json::Map::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let parse = |reason: String| ConfigError::Parse { path: path.into(), reason };
        // Read into the type first: unknown settings and wrong types are refused with line and column.
        let typed: T = serde_saphyr::from_str(&text).map_err(|e| parse(e.to_string()))?;
        if let Value::Object(map) = serde_json::to_value(typed)? {
            settings = map;
        }
    }
    if let Value::Object(map) = serde_json::to_value(given)? {
        settings.extend(map.into_iter().filter(|(_, value)| !value.is_null()));
    }
    settings.retain(|_, value| !value.is_null());
    Ok(serde_json::from_value(Value::Object(settings))?)
}

/// The configuration as `--print-config` shows it: YAML, with the settings named in `secret` hidden.
pub fn printed<T: Serialize>(config: &T, secret: &[&str]) -> Result<String, ConfigError> {
    let mut value = serde_json::to_value(config)?;
    if let Value::Object(map) = &mut value {
        for name in secret {
            if map.get(*name).is_some_and(|v| !v.is_null()) {
                map.insert((*name).to_owned(), Value::String("(hidden)".into()));
            }
        }
    }
    serde_saphyr::to_string(&value).map_err(|e| ConfigError::Parse { path: "--print-config".into(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Settings {
        listen: Option<String>,
        token: Option<String>,
        log_level: Option<String>,
    }

    const NONE: Settings = Settings { listen: None, token: None, log_level: None };

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_fills_what_they_leave() {
        let file = file("listen: 127.0.0.1:1\nlogLevel: debug\n");
        let given = Settings { listen: Some("127.0.0.1:2".into()), ..NONE };
        let merged = layered(&given, Some(file.path())).unwrap();
        assert_eq!(merged, Settings { listen: Some("127.0.0.1:2".into()), log_level: Some("debug".into()), token: None });
    }

    #[test]
    fn an_unknown_setting_is_refused_with_its_name_and_line() {
        let file = file("listen: a\nlisten_adress: b\n");
        let error = layered(&NONE, Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("listen_adress") && error.contains('2'), "{error}");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let text = printed(&Settings { token: Some("hunter2".into()), ..NONE }, &["token"]).unwrap();
        assert!(text.contains("hidden") && !text.contains("hunter2"), "{text}");
    }
}
