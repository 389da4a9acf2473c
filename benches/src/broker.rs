//! A broker's process that can be killed and started again.
//!
//! Owns that process. It never speaks MQTT.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

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
