#![no_main]
//! What other machines on a named network send, and what guests ask of its DNS server.

use libfuzzer_sys::fuzz_target;
use rvisor_hosted::net::{answer_query, take_datagram};

fuzz_target!(|bytes: &[u8]| {
    take_datagram(bytes);
    if let Some(answer) = answer_query(bytes) {
        // An answer isn't a query: two servers can't be made to talk to each other for ever.
        assert!(answer.len() >= 12 && answer_query(&answer).is_none());
    }
});
