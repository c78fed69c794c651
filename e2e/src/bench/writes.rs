//! API writes of objects of 1 KiB over TLS: each is a compare-and-swap, as etcd's are.

use super::{BenchError, etcd::Etcd, throughput};
use crate::{Fleet, Options};
use basalt_api::{Image, ImageSpec, image::ImageFormat};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
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
        "API writes of 1 KiB objects, HTTPS and JSON: replace by resource version, create, server-side apply; reference: etcd {} CAS txn, gRPC without TLS",
        etcd_version()
    );
    println!("{:<10} {:<8} {:>8} {:>14} {:>14} {:>8}", "STORE", "WRITE", "CLIENTS", "WRITES/S", "ETCD WRITES/S", "RATIO");
    let etcd = Etcd::start()?;
    let mut reference = Vec::new();
    for clients in CLIENTS {
        reference.push(etcd.cas_writes(clients, DURATION, &[b'x'; SIZE]).await?);
    }
    drop(etcd);
    for store in ["embedded", "etcd"] {
        let fleet = Fleet::start(Options { hosts: 1, vmm: "simulated", store, flags: Vec::new() });
        for write in [Write::Replace, Write::Create, Write::Apply] {
            for (clients, reference) in CLIENTS.into_iter().zip(&reference) {
                let writes = api_writes(&fleet, write, clients).await?;
                let name = format!("{write:?}").to_lowercase();
                println!("{store:<10} {name:<8} {clients:>8} {writes:>14.0} {reference:>14.0} {:>8.2}", writes / reference);
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Replace,
    Create,
    Apply,
}

async fn api_writes(fleet: &Fleet, write: Write, clients: usize) -> Result<f64, BenchError> {
    let failed = |e: kube::Error| BenchError::new("write to the API", e);
    let mut objects = Vec::new();
    for client in 0..clients {
        // A connection of its own for each client.
        let images: Api<Image> = Api::all(fleet.client().await);
        let name = format!("bench-{write:?}-{clients}-{client}").to_lowercase();
        let spec = ImageSpec { source: "file:///nowhere".into(), sha256: None, format: ImageFormat::Raw };
        let mut image = Image::new(&name, spec);
        image.annotations_mut().insert("bench".into(), "x".repeat(SIZE - 400));
        if let Write::Replace = write {
            image = images.create(&PostParams::default(), &image).await.map_err(failed)?;
        }
        objects.push(Arc::new(Mutex::new((images, image, name, 0u64))));
    }
    throughput(clients, DURATION, |client| {
        let object = objects[client].clone();
        move || {
            let object = object.clone();
            async move {
                let (images, image, name, count) = &mut *object.lock().await;
                *count += 1;
                image.annotations_mut().insert("count".into(), count.to_string());
                match write {
                    Write::Replace => *image = images.replace(name, &PostParams::default(), image).await.map_err(failed)?,
                    Write::Create => {
                        image.metadata.name = Some(format!("{name}-{count}"));
                        images.create(&PostParams::default(), image).await.map_err(failed)?;
                    }
                    Write::Apply => {
                        images.patch(name, &PatchParams::apply("bench"), &Patch::Apply(&*image)).await.map_err(failed)?;
                    }
                }
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
