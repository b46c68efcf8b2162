//! `rvisor bundle`: the guests of the type-1 home, packed into one file and tried out.

mod build;
mod description;
mod extract;
mod run;
mod saved;

pub use build::{build, disk};
pub use extract::extract;
pub use run::run;
