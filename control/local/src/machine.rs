//! Settings of the machine that clusters need changed, with what they were before.
//!
//! They are shared by all clusters of the machine: the first that needs a change makes it, and the
//! last one that leaves puts everything back. The file of what was changed is written before the
//! change itself, and lies in `/run`, as the settings last no longer than a boot either.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Layout};
use crate::net::netns;
use crate::plan;
use crate::record::{Lock, write_whole};

const FILE: &str = "/run/bowline-local/machine.json";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// No cluster's name starts with a dot.
const LOCK: &str = ".machine";

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Changes {
    /// `net.ipv4.ip_forward` was 0.
    forwarding: bool,
    /// Controllers that the root of a pure v2 tree did not hand to its children.
    controllers: Vec<String>,
}

impl Changes {
    fn read() -> io::Result<Self> {
        match fs::read(FILE) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self) -> io::Result<()> {
        write_whole(Path::new(FILE), &serde_json::to_vec(self)?)
    }
}

/// Lets the machine forward packets.
pub(crate) fn forward_packets() -> io::Result<()> {
    change(|changes| {
        if fs::read_to_string(FORWARD)?.trim() == "1" {
            return Ok(());
        }
        changes.forwarding = true;
        changes.write()?;
        fs::write(FORWARD, "1")
    })
}

/// Lets the nodes' cgroups have controllers, where v2 is the only version.
pub(crate) fn delegate(layout: &Layout) -> io::Result<()> {
    if !layout.is_pure_v2() {
        return Ok(());
    }
    change(|changes| {
        let absent = cgroup::undelegated(layout.v2());
        if absent.is_empty() {
            return Ok(());
        }
        changes.controllers.extend(absent);
        changes.write()?;
        cgroup::delegate(layout.v2());
        Ok(())
    })
}

/// Puts the machine's settings back if no cluster is left.
pub(crate) fn restore(layout: &Layout) -> io::Result<()> {
    change(|changes| {
        if *changes == Changes::default() || !netns::named(plan::PREFIX).is_empty() {
            return Ok(());
        }
        if changes.forwarding {
            fs::write(FORWARD, "0")?;
        }
        cgroup::withdraw(layout.v2(), &changes.controllers);
        fs::remove_file(FILE)
    })
}

/// Keeps other clusters from choosing their subnet, as long as it lives.
#[derive(Debug)]
pub(crate) struct Choosing(Option<Lock>);

impl Choosing {
    pub(crate) fn begin() -> io::Result<Self> {
        Lock::take(LOCK).map(|lock| Self(Some(lock)))
    }
}

impl Drop for Choosing {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Lock::remove) {
            tracing::debug!(%error, "a lock's file is left");
        }
    }
}

fn change(act: impl FnOnce(&mut Changes) -> io::Result<()>) -> io::Result<()> {
    let lock = Lock::take(LOCK)?;
    Changes::read().and_then(|mut changes| act(&mut changes))?;
    lock.remove()
}
