//! `cargo xtask prove`: claims of the documentation, shown to hold.
//!
//! Owns the list of proofs. Each measures what it claims on this machine,
//! prints its figures last and fails when they fall short. No figure is
//! written down here but the thresholds.

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::daemon::Product;
use crate::workspace::Workspace;
use crate::{conformance, interop};

mod connections;
mod durable_rate;
mod kill;

/// What to prove, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The proof, or `list` to name them all
    name: String,
    /// Prove the whole claim; without it, a smaller one that takes seconds
    #[arg(long)]
    full: bool,
    /// Measure this broker instead, where the proof allows it
    #[arg(long, value_enum, default_value_t = Product::Causeway)]
    against: Product,
    /// For `kill`: kill a broker that keeps nothing, which must make the proof fail
    #[arg(long)]
    in_memory: bool,
}

struct Proof {
    name: &'static str,
    claim: &'static str,
    run: fn(&Workspace, &Options) -> Result<()>,
}

const PROOFS: &[Proof] = &[
    Proof {
        name: "conformance",
        claim: "the broker does what the MQTT specifications demand",
        run: |workspace, options| conformance::run(workspace, &conformance::Options::whole(options.against)),
    },
    Proof {
        name: "interop",
        claim: "clients written by others get along with the broker",
        run: |workspace, options| interop::run(workspace, &interop::Options::whole(options.against)),
    },
    Proof {
        name: "connections",
        claim: "10,000 idle connections are held, and 5,000 new ones a second are answered",
        run: |workspace, options| connections::prove(workspace, options.against, options.full),
    },
    Proof {
        name: "kill",
        claim: "what was acknowledged is delivered, exactly once with QoS 2, whenever the process is killed",
        run: |workspace, options| kill::prove(workspace, options.against, options.full, options.in_memory),
    },
    Proof {
        name: "durable-rate",
        claim: "the log writes at least 60% of what raw appends do; and what the whole broker acknowledges",
        run: |workspace, options| durable_rate::prove(workspace, options.against, options.full),
    },
];

/// Whether `name` can be given to `cargo xtask prove`.
pub(crate) fn is_known(name: &str) -> bool {
    name == "list" || PROOFS.iter().any(|proof| proof.name == name)
}

/// Runs one proof, or names them.
///
/// # Errors
/// When there is no such proof, it cannot be run, or it falls short.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.name == "list" {
        for proof in PROOFS {
            println!("{:<12} {}", proof.name, proof.claim);
        }
        return Ok(());
    }
    let Some(proof) = PROOFS.iter().find(|proof| proof.name == options.name) else {
        bail!("no proof is called {}; see `cargo xtask prove list`", options.name);
    };
    ensure!(!options.in_memory || proof.name == "kill", "only the proof of kill knows --in-memory");
    (proof.run)(workspace, options)
}
