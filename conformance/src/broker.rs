//! Owns the broker's process, when the suite is asked to run it: start, end and start again. Never speaks MQTT.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::restart::Ending;
use crate::transport::Target;

/// How long the broker may take until it accepts, and until it has ended.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often to look whether it has got there: nothing announces it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A broker that runs until this is dropped.
#[derive(Debug)]
pub struct Broker {
    command: String,
    listeners: Vec<Target>,
    child: Mutex<Child>,
}

impl Broker {
    /// Runs `command` in a shell and waits until every listener accepts.
    pub fn start(command: &str, listeners: Vec<Target>) -> Result<Broker> {
        let child = spawn(command)?;
        let broker = Broker { command: command.to_owned(), listeners, child: Mutex::new(child) };
        broker.wait_until_ready(&mut broker.child())?;
        Ok(broker)
    }

    /// Ends the broker, leaves it down for `down`, and starts it again.
    pub fn restart(&self, ending: Ending, down: Duration) -> Result<()> {
        let mut child = self.child();
        ensure!(child.try_wait()?.is_none(), "the broker has ended by itself before its restart");
        match ending {
            Ending::Kill => child.kill().context("killing the broker")?,
            Ending::Stop => {
                let pid = child.id().to_string();
                let told = Command::new("kill").args(["-TERM", &pid]).status().context("running kill")?;
                ensure!(told.success(), "kill -TERM failed: {told}");
            }
        }
        wait_for_end(&mut child)?;
        // What is tested is what happens while it is down, such as expiry.
        std::thread::sleep(down);
        *child = spawn(&self.command)?;
        self.wait_until_ready(&mut child)
    }

    /// Fails if the broker has ended by itself.
    pub fn check_alive(&self) -> Result<()> {
        let status = self.child().try_wait()?;
        status.map_or(Ok(()), |status| bail!("the broker has ended by itself: {status}"))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self, child: &mut Child) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        for listener in &self.listeners {
            while let Err(error) = listener.open(DEADLINE) {
                if let Some(status) = child.try_wait()? {
                    bail!("the broker ended instead of accepting: {status}");
                }
                ensure!(Instant::now() < deadline, "the broker does not accept: {error:#}");
                // Nobody tells when it accepts: ask again, until the deadline.
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut child = self.child();
        // Already ended is as good as killed.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The shell is replaced, so that the process is the broker's and signals reach it.
fn spawn(command: &str) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec {command}")).stdin(Stdio::null());
    shell.spawn().with_context(|| format!("running {command}"))
}

fn wait_for_end(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "the broker does not end");
        // Waiting for a child with a deadline is asking again.
        std::thread::sleep(LOOK_EVERY);
    }
}
