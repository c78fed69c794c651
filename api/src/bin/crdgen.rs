//! Prints every kind as a CustomResourceDefinition, one JSON document a line, preceded by its file name:
//! `make manifests` writes them to `manifests/crds/`.

fn main() -> Result<(), serde_json::Error> {
    for crd in basalt_api::crds() {
        println!("{}", serde_json::to_string_pretty(&crd)?);
    }
    Ok(())
}
