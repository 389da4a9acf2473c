//! `cargo xtask conformance`: the black-box suite against a broker.
//!
//! Owns configuring the broker, which the suite starts and restarts, and where the report goes. What conforms is
//! decided by the suite alone.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::daemon::{Configured, Data, PASSWORD, Product, Setup, Transport, USER};
use crate::workspace::{self, Profile, Workspace};

/// What to judge, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker to judge
    #[arg(long, value_enum, default_value_t = Product::Causeway)]
    against: Product,
    /// Arguments handed to the suite
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// The whole suite against a broker.
    pub(crate) fn whole(against: Product) -> Self {
        Self { against, arguments: Vec::new() }
    }
}

/// A broker that offers less than it could, so that what it announces and refuses is judged, too.
const RESTRICTED: &str = "maximum_qos = 1\nretain_available = false\nshared_subscriptions = false\n\
    wildcard_subscriptions = false\nsubscription_identifiers = false\ntopic_alias_maximum = 0\n";
/// A broker whose sessions live on as many threads.
const SHARDS: u32 = 2;
const SHARDS_VARIABLE: &str = "CAUSEWAY_BROKER__SHARDS";
/// The tests of what CONNACK announces.
const RESTRICTED_FILTER: &str = "3.2/*";

/// Runs the suite; the report lands in `target/conformance/BROKER/`.
///
/// # Errors
/// When anything cannot be built or started, or a check fails unexpectedly.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let name = options.against.name();
    judge(workspace, options, (name, ""), 1, &options.arguments)?;
    if options.against == Product::Causeway && options.arguments.is_empty() {
        println!("\nonce more, on a broker that offers less than it could:");
        let arguments = ["--filter".to_owned(), RESTRICTED_FILTER.to_owned()];
        judge(workspace, options, ("causeway-restricted", RESTRICTED), 1, &arguments)?;
        println!("\nonce more, all of it, on a broker of several shards:");
        judge(workspace, options, ("causeway-shards", ""), SHARDS, &[])?;
    }
    Ok(())
}

fn judge(
    workspace: &Workspace,
    options: &Options,
    (name, limits): (&str, &str),
    shards: u32,
    arguments: &[String],
) -> Result<()> {
    let suite = workspace.build("causeway-conformance", "causeway-conformance", Profile::Dev)?;
    let broker = Configured::new(
        workspace,
        &Setup {
            product: options.against,
            profile: Profile::Dev,
            purpose: "conformance",
            transports: &[Transport::Tcp, Transport::Ws],
            has_user: true,
            data: Data::Kept,
            limits,
        },
    )?;
    let report = workspace.scratch(&format!("conformance/{name}"))?;
    let mut command = std::process::Command::new(suite);
    command
        .current_dir(&workspace.root)
        .arg("--target")
        .arg(broker.address(Transport::Tcp)?.to_string())
        .arg("--ws-target")
        .arg(broker.address(Transport::Ws)?.to_string())
        .args(["--broker-command", &format!("env {SHARDS_VARIABLE}={shards} {}", broker.command())])
        .args(["--username", USER, "--password", PASSWORD])
        .arg("--report")
        .arg(&report);
    if options.against == Product::Causeway {
        command.args(["--scram-username", USER, "--scram-password", PASSWORD]);
    }
    let known_failures = format!("conformance/known-failures/{name}.txt");
    if workspace.root.join(&known_failures).is_file() {
        command.arg("--known-failures").arg(&known_failures);
    }
    let outcome = workspace::run(command.args(arguments));
    println!("broker log: {}", broker.log().display());
    outcome.with_context(|| format!("{name} falls short of the conformance suite"))
}
