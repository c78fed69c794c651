//! The dynamic client of Python's `kubernetes`, as the distribution has it.

mod common;

use common::start;

#[tokio::test(flavor = "multi_thread")]
async fn the_dynamic_client_of_python_does_all_that_people_do() {
    let server = start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py");
    let ran = tokio::process::Command::new("/usr/bin/python3")
        .args([script, &format!("http://{}", server.address)])
        // The client keeps what it discovered in a file.
        .env("TMPDIR", server.scratch())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.ends_with("all as expected\n"), "{said}");
}
