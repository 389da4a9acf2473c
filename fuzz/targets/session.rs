//! Hands the target `session` to libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::session(data));
