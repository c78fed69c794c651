//! API writes: replacing objects of 1 KiB over TLS, each write a compare-and-swap by resource version, as etcd's are.

use super::{BenchError, etcd::Etcd, throughput};
use crate::{Fleet, Options};
use basalt_api::{Image, ImageSpec, image::ImageFormat};
use kube::{Api, ResourceExt, api::PostParams};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// How long each figure is measured.
const DURATION: Duration = Duration::from_secs(4);
/// Size of a value.
const SIZE: usize = 1024;
/// How many clients write at once.
const CLIENTS: [usize; 3] = [1, 16, 128];

/// Prints writes a second of both stores against etcd's own.
pub async fn run() -> Result<(), BenchError> {
    println!(
        "API writes: replace a 1 KiB object by resource version, HTTPS and JSON; reference: etcd {} CAS txn, gRPC without TLS",
        etcd_version()
    );
    println!("{:<10} {:>8} {:>14} {:>14} {:>8}", "STORE", "CLIENTS", "WRITES/S", "ETCD WRITES/S", "RATIO");
    let etcd = Etcd::start()?;
    let mut reference = Vec::new();
    for clients in CLIENTS {
        reference.push(etcd.cas_writes(clients, DURATION, &[b'x'; SIZE]).await?);
    }
    drop(etcd);
    for store in ["embedded", "etcd"] {
        let fleet = Fleet::start(Options { hosts: 1, vmm: "simulated", store, flags: Vec::new() });
        for (clients, reference) in CLIENTS.into_iter().zip(&reference) {
            let writes = api_writes(&fleet, clients).await?;
            println!("{store:<10} {clients:>8} {writes:>14.0} {reference:>14.0} {:>8.2}", writes / reference);
        }
    }
    Ok(())
}

async fn api_writes(fleet: &Fleet, clients: usize) -> Result<f64, BenchError> {
    let failed = |e: kube::Error| BenchError::new("write to the API", e);
    let mut objects = Vec::new();
    for client in 0..clients {
        // A connection of its own for each client.
        let images: Api<Image> = Api::all(fleet.client().await);
        let mut image = Image::new(
            &format!("bench-{clients}-{client}"),
            ImageSpec { source: "file:///nowhere".into(), sha256: None, format: ImageFormat::Raw },
        );
        image.annotations_mut().insert("bench".into(), "x".repeat(SIZE - 400));
        let image = images.create(&PostParams::default(), &image).await.map_err(failed)?;
        objects.push(Arc::new(Mutex::new((images, image, 0u64))));
    }
    throughput(clients, DURATION, |client| {
        let object = objects[client].clone();
        move || {
            let object = object.clone();
            async move {
                let (images, image, count) = &mut *object.lock().await;
                *count += 1;
                image.annotations_mut().insert("count".into(), count.to_string());
                *image = images.replace(&image.name_any(), &PostParams::default(), image).await.map_err(failed)?;
                Ok(())
            }
        }
    })
    .await
}

fn etcd_version() -> String {
    let output = std::process::Command::new("etcd").arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().and_then(|line| line.split(": ").nth(1)).unwrap_or("(unknown)").to_owned()
}
