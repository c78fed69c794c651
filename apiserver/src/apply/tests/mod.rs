//! The promises of apply and of ownership, on a kind that has every sort of list and map.

mod applying;
mod fixture;
mod properties;
mod updating;
