//! Fences: what one writes only as long as a lease of theirs is what it was.
//!
//! Who held the leadership may learn late that it is another's now. So its writes do not rest on what it knows: each is one
//! commit with the check that the lease is still at the revision at which the writer got it.

use crate::{
    error::{Reason, Status},
    keys,
};
use basalt_store::{Action, Expect, Revision, Write};

/// A Lease that has to stay as it is for a request's writes to happen: put into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub lease: String,
    /// Its resource version.
    pub revision: Revision,
}

tokio::task_local! {
    // Not an argument of everything between the request and the commit: none of it has to do with it.
    static FENCE: Option<Fence>;
}

impl Fence {
    /// Answers a request behind its fence, if it has one.
    pub async fn around<T>(fence: Option<Self>, answer: impl Future<Output = T>) -> T {
        FENCE.scope(fence, answer).await
    }

    /// The check for the commits of the request that is being answered.
    pub fn check() -> Option<Write> {
        let fence = FENCE.try_with(Clone::clone).ok().flatten()?;
        let key = keys::key("coordination.k8s.io", "leases", &keys::place(Some(&fence.namespace), &fence.lease));
        Some(Write { key, expect: Expect::At(fence.revision), action: Action::Check })
    }

    /// What is answered to one whose lease is another's now.
    pub fn refusal() -> Status {
        Status::new(Reason::Conflict, "the lease that this is written under is not the writer's any more; nothing was changed")
    }
}
