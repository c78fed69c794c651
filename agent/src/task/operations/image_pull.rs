//! ImagePull: an image's file is read, verified and known before a VM asks for it.

use super::{Ended, Operation, Results, Work};
use crate::{
    images::Unread,
    task::{log::Level, record::Given},
    vm::machine::image_spec,
};
use async_trait::async_trait;
use basalt_api::{image::ImageSpec, task};

/// A pull of one image.
pub struct ImagePull {
    name: String,
    spec: ImageSpec,
}

impl ImagePull {
    /// With the spec that came with the attempt.
    pub fn new(parameters: task::ImagePull, given: &Given) -> Result<Self, Ended> {
        let name = parameters.image;
        let spec = image_spec(&given.object)
            .map_err(|error| Ended::NotSupported(format!("This agent does not understand the spec of image {name}: {error}")))?;
        match spec {
            Some(spec) => Ok(Self { name, spec }),
            None => Err(Ended::Failed(format!("There is no Image {name:?}. Create it, or name another"))),
        }
    }
}

#[async_trait]
impl Operation for ImagePull {
    fn steps(&self) -> Vec<String> {
        vec!["read and verify".into()]
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        work.enter(0)?;
        work.log(Level::Info, &format!("Image {} is read from {}", self.name, self.spec.source));
        let (name, spec, asked) = (self.name.clone(), self.spec.clone(), work.clone());
        let read = work
            .blocking(move || {
                let images = &asked.host().doors.images;
                let read = images.read(&name, &spec, |read, size| {
                    asked.progress(read, size, "bytes");
                    asked.check().is_ok()
                });
                asked.check()?;
                // It costs nothing more: a digest that was found is kept.
                let seen = images.check(&name, Some(&spec)).seen;
                asked.host().doors.board.images(vec![(name, seen)]);
                Ok(read)
            })
            .await?;
        match read {
            Ok(whole) => {
                let verified = if self.spec.sha256.is_some() { "is what its digest says" } else { "has no digest to be verified by" };
                work.log(Level::Info, &format!("{} bytes; the image {verified}", whole.bytes));
                let results = [("path", whole.path.display().to_string()), ("bytes", whole.bytes.to_string()), ("sha256", whole.sha256)];
                Ok(results.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }
            Err(Unread::Unfit(why)) => Err(Ended::Failed(why)),
            Err(Unread::Stopped) => Err(Ended::Cancelled),
        }
    }
}
