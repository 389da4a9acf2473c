//! `cargo xtask prove`: claims of the documentation, shown to hold.
//!
//! Owns the list of proofs. Each measures what it claims on this machine,
//! prints its figures last and fails when they fall short. No figure is
//! written down here but the thresholds.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use self::side_by_side::SideBySide;
use crate::daemon::Product;
use crate::workspace::Workspace;
use crate::{conformance, interop};

mod broadcast;
mod commands;
mod connections;
mod disk_full;
mod durable_rate;
pub(crate) mod enrolment;
mod fleet;
mod garage;
mod identity;
mod kill;
mod load;
mod million_sessions;
mod powercut;
mod presence;
mod puppets;
mod revocation;
mod rotation;
mod shadow_aws;
mod shadow_converge;
mod side_by_side;
mod soak;
mod speed;
mod stale_unlock;
mod storm;
mod twin_rate;

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
    /// For `powercut`: acknowledge without waiting for the disk, which must make the proof fail
    #[arg(long)]
    unsynced: bool,
    /// For `soak`: how long to work, in seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// For `soak`, `speed`, `latency`, `idle` and `storm-baseline`: where to draw the figures, as an SVG; samples of `soak` go beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// For `speed`, `latency`, `idle` and `storm-baseline`: a broker to stand beside: mosquitto, flashmq or rumqttd
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<String>,
}

impl Options {
    /// Causeway beside the brokers that were named.
    fn beside<'a>(&'a self, workspace: &'a Workspace) -> SideBySide<'a> {
        SideBySide { workspace, peers: &self.peers, plot: self.plot.as_deref() }
    }
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
    Proof {
        name: "powercut",
        claim: "what was acknowledged is kept, wherever in the disk's work the power goes, and the broker starts again",
        run: |workspace, options| powercut::prove(workspace, options.full, options.unsynced),
    },
    Proof {
        name: "disk-full",
        claim: "on a disk that others filled to the last byte nothing acknowledged is lost, and the broker gets out by itself",
        run: |workspace, _| disk_full::prove(workspace),
    },
    Proof {
        name: "broadcast",
        claim: "one message for 1,000,000 sessions that are away is one record, less than 32 bytes each, and acknowledged within 1 s",
        run: |workspace, options| broadcast::prove(workspace, options.full),
    },
    Proof {
        name: "million-sessions",
        claim: "with 1,000,000 stored sessions and 10 GB of queued messages the daemon is ready within 10 s",
        run: |workspace, options| million_sessions::prove(workspace, options.full),
    },
    Proof {
        name: "enrolment",
        claim: "from a key to the first publish with openssl, curl and mosquitto_pub, as the documentation says, and nobody else's way",
        run: |workspace, _| enrolment::prove(workspace),
    },
    Proof {
        name: "revocation",
        claim: "whoever is revoked is disconnected within 1 s on every transport, and refused, resumed TLS sessions included",
        run: |workspace, options| revocation::prove(workspace, options.full),
    },
    Proof {
        name: "rotation",
        claim: "certificates, authorities and revocation lists rotate while 1,000 TLS clients publish, and none is disconnected",
        run: |workspace, options| rotation::prove(workspace, options.full),
    },
    Proof {
        name: "soak",
        claim: "under everyday work at a bounded rate, memory and disk level off",
        run: |workspace, options| soak::prove(workspace, options.full, options.seconds, options.plot.as_deref()),
    },
    Proof {
        name: "identity",
        claim: "who may do what with which topic: hundreds of lines, by the rules alone and over real connections, every way out tried",
        run: |workspace, options| identity::prove(workspace, options.full),
    },
    Proof {
        name: "shadow-aws",
        claim: "the AWS IoT device SDK's shadow clients, old and new, work with only endpoint and certificates changed",
        run: |workspace, options| shadow_aws::prove(workspace, options.full),
    },
    Proof {
        name: "stale-unlock",
        claim: "doors that were unlocked as desired and then locked by hand stay locked, whatever becomes of connections and broker",
        run: |workspace, options| stale_unlock::prove(workspace, options.full),
    },
    Proof {
        name: "shadow-converge",
        claim: "whoever looks at a shadow sees the same, and what a naive model says, after random updates, lost connections, kills and power cuts",
        run: |workspace, options| shadow_converge::prove(workspace, options.full),
    },
    Proof {
        name: "commands",
        claim: "10,000 commands at once, replies late, twice, forged or missing, and SIGKILL: each request has exactly one outcome, its own",
        run: |workspace, options| commands::prove(workspace, options.full),
    },
    Proof {
        name: "twin-rate",
        claim: "shadows of 1,000,000 vehicles are updated, read and found, and commands answered, at rates beside those of plain messages",
        run: |workspace, options| twin_rate::prove(workspace, options.full),
    },
    Proof {
        name: "speed",
        claim: "on one core each message costs no more processor time than with the best peer, and less than 0.7 in half of the scenarios",
        run: |workspace, options| speed::prove_speed(&options.beside(workspace), options.full),
    },
    Proof {
        name: "latency",
        claim: "at 20,000 messages a second p99 latency is at or below the best peer's",
        run: |workspace, options| speed::prove_latency(&options.beside(workspace), options.full),
    },
    Proof {
        name: "idle",
        claim: "an idle connection takes at most 1.7 KiB, 15 KiB in TLS, and a new one no more processor time than with the best peer",
        run: |workspace, options| speed::prove_idle(&options.beside(workspace), options.full),
    },
    Proof {
        name: "storm-baseline",
        claim: "10,000 clients who come at once are all let in, and those who were there lose nothing",
        run: |workspace, options| speed::prove_storm(&options.beside(workspace), options.full),
    },
    Proof {
        name: "presence",
        claim: "whoever believes the largest epoch knows which vehicles are connected, after 100,000 connects, takeovers, drops and crashes",
        run: |workspace, options| presence::prove(workspace, options.full),
    },
    Proof {
        name: "storm",
        claim: "10,000 vehicles with certificates come back at once: those connected hardly notice, all get in, and no false will is sent",
        run: |workspace, options| storm::prove(workspace, options.full),
    },
];

/// Whether `name` can be given to `cargo xtask prove`.
pub(crate) fn is_known(name: &str) -> bool {
    name == "list" || PROOFS.iter().any(|proof| proof.name == name)
}

/// Runs the quick form of one proof.
///
/// # Errors
/// As [`run`].
pub(crate) fn quick(workspace: &Workspace, name: &str) -> Result<()> {
    let options = Options {
        name: name.to_owned(),
        full: false,
        against: Product::Causeway,
        in_memory: false,
        unsynced: false,
        seconds: None,
        plot: None,
        peers: Vec::new(),
    };
    run(workspace, &options)
}

/// Runs one proof, or names them.
///
/// # Errors
/// When there is no such proof, it cannot be run, or it falls short.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.name == "list" {
        for proof in PROOFS {
            println!("{:<16} {}", proof.name, proof.claim);
        }
        return Ok(());
    }
    let Some(proof) = PROOFS.iter().find(|proof| proof.name == options.name) else {
        bail!("no proof is called {}; see `cargo xtask prove list`", options.name);
    };
    ensure!(!options.in_memory || proof.name == "kill", "only the proof of kill knows --in-memory");
    ensure!(!options.unsynced || proof.name == "powercut", "only the proof of powercut knows --unsynced");
    ensure!(options.seconds.is_none() || proof.name == "soak", "only the proof of soak knows --seconds");
    let is_of_another = options.against != Product::Causeway;
    let needs_causeway = !["conformance", "interop", "connections", "kill", "durable-rate"].contains(&proof.name);
    let stands_beside_others = ["speed", "latency", "idle", "storm-baseline"].contains(&proof.name);
    let can_be_drawn = stands_beside_others || proof.name == "soak";
    ensure!(options.plot.is_none() || can_be_drawn, "{} knows no --plot", proof.name);
    ensure!(options.peers.is_empty() || stands_beside_others, "{} knows no --peer", proof.name);
    ensure!(!(is_of_another && stands_beside_others), "{} compares: it knows --peer, but no --against", proof.name);
    ensure!(!(is_of_another && needs_causeway), "{} looks into the broker: it knows no --against", proof.name);
    (proof.run)(workspace, options)
}
