//! Tasks between the API and the hosts: which attempts a host is to begin ([`board`]), what becomes of each ([`attempt`]), and what
//! it wrote down ([`log`]).

pub mod attempt;
pub mod board;
pub mod log;
pub mod served;
mod writes;

pub use attempt::Attempts;
