#![no_main]
//! What a source sends to `rvisor receive`, up to what is written down of it.

use libfuzzer_sys::fuzz_target;
use rvisor_instances::migration::check_stream;

fuzz_target!(|bytes: &[u8]| check_stream(bytes));
