//! `causewayd`: hands the command line to [`causeway_broker::cli`], and its outcome to the system.

use std::process::ExitCode;

/// Many small buffers that live from moments to months: the system's allocator keeps much more of what was freed.
/// How it is set is in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    causeway_broker::cli::main()
}
