//! gzip for large answers to those who take it. Watches are never compressed: an event is not to wait for the next one.

use axum::body::HttpBody as Body;
use http::Response;
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, Predicate},
};

/// From how many bytes on an answer is compressed, as in Kubernetes: less is sent sooner than compressed.
const LEAST: u64 = 128 << 10;

/// Answers that are known to be large; the length of a stream is not known.
#[derive(Clone, Copy, Debug)]
pub struct Large;

impl Predicate for Large {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        response.body().size_hint().exact().is_some_and(|size| size >= LEAST)
    }
}

/// Compresses the answers of a service.
pub fn layer() -> CompressionLayer<Large> {
    CompressionLayer::new().gzip(true).quality(CompressionLevel::Fastest).compress_when(Large)
}
