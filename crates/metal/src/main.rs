//! The image of the type-1 home. The entry is in the library's assembly.
#![no_std]
#![no_main]

use rvisor_metal as _;
