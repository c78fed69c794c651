//! The harness of the end-to-end tests and benches: a fleet of real programs, started as a user starts it, with
//! `basaltctl dev up`, and ended with everything of it when the test ends.

pub mod bench;
pub mod fleet;
pub mod gateway;
pub mod guest;
pub mod writers;

pub use fleet::{Fleet, Options};
