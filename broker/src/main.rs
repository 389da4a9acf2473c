//! `causewayd`: hands the command line to [`causeway_broker::cli`], and its outcome to the system.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway_broker::cli::main()
}
