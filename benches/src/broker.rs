//! A broker's process that can be killed and started again.
//!
//! Owns that process, and the wait until it answers.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::sleep;

use crate::client::Client;

/// How long a broker may take from its start to its first CONNACK.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often to try whether it answers.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// A broker that runs until this value is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    command: String,
    child: Child,
}

impl Broker {
    /// Runs `command`, the broker in the foreground, in a shell.
    ///
    /// # Errors
    /// When there is no shell.
    pub(crate) fn start(command: &str) -> Result<Self> {
        Ok(Self { command: command.to_owned(), child: spawn(command)? })
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it has ended by itself before.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.check_alive()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it still runs, or there is no shell.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_some(), "the broker still runs");
        self.child = spawn(&self.command)?;
        Ok(())
    }

    /// Waits until it lets a client in. How long that took.
    ///
    /// # Errors
    /// When it ends, or answers nobody within a minute.
    pub(crate) async fn wait_until_ready(&mut self, target: SocketAddr) -> Result<Duration> {
        let began = Instant::now();
        loop {
            // A client of its own, so that no session that matters is touched by a try that fails half way.
            match Client::connect(target, 0, "kill-probe", 0).await {
                Ok(client) => {
                    let recovery = began.elapsed();
                    client.disconnect().await?;
                    return Ok(recovery);
                }
                Err(error) => {
                    self.check_alive()?;
                    if began.elapsed() > START_DEADLINE {
                        return Err(error.context("the broker does not answer"));
                    }
                    // A broker that starts tells nobody when it listens: ask again.
                    sleep(TRY_EVERY).await;
                }
            }
        }
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// When it has.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker has ended by itself: {status}");
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shell is replaced, so that the process to be killed is the broker's.
fn spawn(command: &str) -> Result<Child> {
    Command::new("sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {command}"))
}
