//! `rvisor bundle`: the guests of the type-1 home, packed into one file and tried out.

mod build;
mod description;
mod run;

pub use build::{build, disk};
pub use run::run;
