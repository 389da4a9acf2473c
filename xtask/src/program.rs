//! The foreign programs some checks need.
//!
//! Owns how each is recognised and installed. It never installs anything
//! itself: a missing program is reported with the line that installs it.

use std::process::{Command, Stdio};

/// A program that is not built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The mosquitto broker.
    Mosquitto,
    /// `mosquitto_pub` and `mosquitto_sub`.
    MosquittoClients,
    /// Node.js with npm.
    Node,
    /// Python 3 able to make virtual environments with pip.
    Python,
    /// Valgrind, with callgrind.
    Valgrind,
    /// curl, with TLS.
    Curl,
    /// The command line of OpenSSL.
    OpenSsl,
}

impl Program {
    /// Whether it can be used on this machine.
    pub(crate) fn is_present(self) -> bool {
        match self {
            Self::Mosquitto => answers("mosquitto", &["-h"]) || answers(MOSQUITTO, &["-h"]),
            Self::MosquittoClients => answers("mosquitto_pub", &["--help"]) && answers("mosquitto_sub", &["--help"]),
            Self::Node => succeeds("node", &["--version"]) && succeeds("npm", &["--version"]),
            Self::Python => succeeds("python3", &["-c", "import ensurepip, venv"]),
            Self::Valgrind => succeeds("valgrind", &["--tool=callgrind", "--version"]),
            Self::Curl => succeeds("curl", &["--version"]),
            Self::OpenSsl => succeeds("openssl", &["version"]),
        }
    }

    /// The line that installs it on Debian.
    pub(crate) fn install_line(self) -> &'static str {
        match self {
            Self::Mosquitto => "apt-get install -y mosquitto",
            Self::MosquittoClients => "apt-get install -y mosquitto-clients",
            Self::Node => "apt-get install -y nodejs npm",
            Self::Python => "apt-get install -y python3 python3-venv",
            Self::Valgrind => "apt-get install -y valgrind",
            Self::Curl => "apt-get install -y curl",
            Self::OpenSsl => "apt-get install -y openssl",
        }
    }
}

/// Debian installs the broker here, which is not on every user's path.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// The mosquitto broker's program, by name or by Debian's path.
pub(crate) fn mosquitto_path() -> &'static str {
    if answers("mosquitto", &["-h"]) { "mosquitto" } else { MOSQUITTO }
}

/// Whether the program starts at all; mosquitto's help exits with 1 or 3.
fn answers(program: &str, arguments: &[&str]) -> bool {
    quiet(program, arguments).status().is_ok()
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    quiet(program, arguments).status().is_ok_and(|status| status.success())
}

fn quiet(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
