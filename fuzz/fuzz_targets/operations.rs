//! Any sequence of calls, one thread: the buffer gives the answers and readings of a plain model.
//!
//! The input is 12 bytes of settings, then 8 bytes for each call.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../tests/reference_model/mod.rs"]
mod reference_model;

use libfuzzer_sys::fuzz_target;

use reference_model::{Operation, Pair, Setup};

/// A longer input finds nothing that a shorter one does not, only slower.
const MOST_OPERATIONS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let Some((setup, operations)) = input.split_first_chunk::<{ Setup::CODE }>() else { return };
    let mut pair = Pair::new(Setup::decode(*setup));
    let (operations, _) = operations.as_chunks::<{ Operation::CODE }>();
    for &operation in operations.iter().take(MOST_OPERATIONS) {
        pair.step(Operation::decode(operation));
    }
    // The last byte of the settings says how it ends.
    if setup[Setup::CODE - 1].is_multiple_of(2) {
        pair.drain();
    } else {
        pair.abandon();
    }
});
