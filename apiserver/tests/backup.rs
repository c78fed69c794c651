//! Backups on the wire, and restores that were cut off.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use basalt_apiserver::{
    ApiServer, Options, Registry, StartError,
    backup::{Backup, ReadError, RestoreError},
};
use basalt_store::{Action, Expect, Store, Write, embedded::Embedded};
use common::{
    start,
    wire::{VMS, vm},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_of_one_revision_and_whole() {
    let server = start().await;
    // The namespace `default` and the built-in roles.
    let before = Backup::read(&server.get("/backup").await.body[..]).unwrap().head.objects;
    for number in 0..300 {
        server.post(VMS, &vm(&format!("vm-{number}"))).await.ok(201);
    }
    let text = String::from_utf8(server.get("/backup").await.body.to_vec()).unwrap();
    let backup = Backup::read(text.as_bytes()).unwrap();
    assert_eq!((backup.head.objects, backup.head.revision), (before + 300, server.revision().await));
    for cut in [1, text.len() / 2, text.len() - 1] {
        assert!(matches!(Backup::read(&text.as_bytes()[..cut]), Err(ReadError::NotWhole(_))));
    }
    let changed = text.replacen("vm-7", "vm-8", 1);
    assert!(matches!(Backup::read(changed.as_bytes()), Err(ReadError::NotWhole(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_left_half_done_is_not_served_and_is_replaced_by_the_next() {
    let server = start().await;
    for number in 0..300 {
        server.post(VMS, &vm(&format!("vm-{number:03}"))).await.ok(201);
    }
    let text = String::from_utf8(server.get("/backup").await.body.to_vec()).unwrap();
    let backup = Backup::read(text.as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Default::default()).unwrap();
    // As it is when the process was killed between two of its commits.
    let put = |key: &str| Write { key: key.to_owned().into(), expect: Expect::Any, action: Action::Put("{\"metadata\":{}}".into()) };
    store.commit(vec![put("/restore")]).await.unwrap();
    store.commit(vec![put("/registry/basalt.dev/virtualmachines/default/vm-000"), put("/registry/basalt.dev/hosts/h")]).await.unwrap();
    let start = async || ApiServer::start(store.clone(), Registry::builtin(), Options::default()).await;
    assert!(matches!(start().await, Err(StartError::Unfinished)));

    backup.restore(&*store).await.unwrap();
    start().await.unwrap();
    let stored = store.range(b"/registry/basalt.dev/", b"/registry/basalt.dev0", 0).await.unwrap().entries;
    assert_eq!(stored.len(), 300, "what the first one left is gone");
    assert!(matches!(backup.restore(&*store).await, Err(RestoreError::NotEmpty { .. })));
}
