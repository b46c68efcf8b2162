//! Rvisor's image store: pulls, verifies and builds guest images.
#![forbid(unsafe_code)]
