//! The command `causeway-conformance`. Everything is in the library; this only turns the outcome into an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway_conformance::cli::main()
}
