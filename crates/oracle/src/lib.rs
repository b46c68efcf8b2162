//! Checks the hart against independent models of the architecture, on random instructions and states.
//!
//! Key types: [`Comparison`] (steps a hart and the [`Model`] side by side) and [`Report`] (what was compared,
//! what wasn't and why, what differed). The program of this crate prints the report.
//!
//! This crate is not shipped: it is a test that is too large for one.

mod compare;
mod generate;
mod model;
pub mod qemu;
mod random;
mod report;
mod world;

pub use compare::Comparison;
pub use generate::Generator;
pub use model::{Model, Outcome};
pub use random::Random;
pub use report::{Difference, Report};
pub use world::{RAM, Ram, World};
