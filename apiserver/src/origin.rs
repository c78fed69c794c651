//! Where a request comes from, if it does not come over the network: another part of the same program puts an [`InProcess`]
//! into its extensions.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// The request is made within this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InProcess {
    /// What made that part act.
    pub trigger: Option<Trigger>,
}

/// The object that made somebody act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// The controller, or other part, that acts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub controller: String,
    /// Group of the object's kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural name of the object's kind.
    pub resource: String,
    /// Its namespace, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The generation of it that is acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// Makes the names of requests: what tells this run of the program from others, and a number.
#[derive(Debug)]
pub struct RequestIds {
    run: String,
    count: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        Self { run: run[..12].to_owned(), count: AtomicU64::new(0) }
    }
}

impl RequestIds {
    /// The next.
    pub fn next(&self) -> String {
        format!("{}-{}", self.run, self.count.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
