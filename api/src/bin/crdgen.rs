//! Writes every kind as a CustomResourceDefinition to the directory that it is given, a YAML file a kind: what
//! `make manifests` runs.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args_os().nth(1).ok_or("usage: crdgen DIRECTORY")?);
    for crd in basalt_api::crds() {
        let name = crd.metadata.name.as_deref().ok_or("a definition has no name")?;
        let path = dir.join(format!("{name}.yaml"));
        let text = serde_saphyr::to_string(&serde_json::to_value(&crd)?)?;
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}
