//! `causewayd admin-token`: the tokens of the administration listener.
//!
//! Owns the command line. A token is printed once, when it is made.

use std::io::{ErrorKind, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::table::print_table;
use crate::admin::token_file::{Role, TokenFile};

#[derive(Debug, Args)]
#[command(after_help = "\
The file is admin.token_file of the configuration; it has names, roles and hashes. A running broker sees the change at once.

Examples:
  causewayd admin-token /etc/causeway/admin-tokens add ann --role write > ann.token
  causewayd vehicle list --admin http://127.0.0.1:9883 --token-file ann.token
  causewayd admin-token /etc/causeway/admin-tokens remove ann")]
pub(super) struct Options {
    /// The file; add creates it
    file: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print it, in place of the one that the name may have
    Add {
        /// Whose it is
        name: String,
        /// What it is good for: read (look) or write (look and change)
        #[arg(long, default_value_t = Role::Read)]
        role: Role,
    },
    /// Remove a token
    Remove {
        /// Whose
        name: String,
    },
    /// List names and roles
    List,
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut file = match TokenFile::load(&options.file) {
        Err(error) if error.kind() == ErrorKind::NotFound && matches!(options.action, Action::Add { .. }) => {
            TokenFile::default()
        }
        loaded => loaded?,
    };
    let store = |file: &TokenFile| file.store(&options.file).with_context(|| options.file.display().to_string());
    match &options.action {
        Action::Add { name, role } => {
            let token = file.add(name, *role).map_err(anyhow::Error::msg)?;
            store(&file)?;
            writeln!(out, "{token}")?;
            writeln!(stderr(), "The token of {name}, which may {role}. It is not shown again.")?;
        }
        Action::Remove { name } => {
            if !file.remove(name) {
                bail!("there is no token of {name:?} in {}", options.file.display());
            }
            store(&file)?;
        }
        Action::List => {
            let rows: Vec<_> =
                file.tokens.iter().map(|token| vec![token.name.clone(), token.role.to_string()]).collect();
            print_table(&["NAME", "ROLE"], &rows, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
