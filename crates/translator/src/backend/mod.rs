//! From superblocks to host code, a folder for each host.

pub mod x64;
