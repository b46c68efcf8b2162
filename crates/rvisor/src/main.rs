//! The command line of Rvisor.

fn main() {}
