//! What translated code runs in: frames, spaces, the code cache, and the helpers that finish what it can't.

pub mod cache;
pub mod code_memory;
pub mod frame;
pub mod helpers;
pub mod profile;
pub mod run;
pub mod shared;
pub mod site;
pub mod space;
