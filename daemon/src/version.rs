//! The version of this build, with its commit.

/// The version, such as `0.1.0+1a2b3c4d5e6f`; `+unknown` where the build had no repository.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("BASALT_COMMIT"));
