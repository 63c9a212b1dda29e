//! What a pod's worker remembers beside what the runtime knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::backoff::Backoff;

/// First wait after something failed; doubles up to [`RETRY_LONGEST`].
pub const RETRY_FIRST: Duration = Duration::from_millis(200);
pub const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Waits between pulls of an image that can't be pulled.
pub const PULL_FIRST: Duration = Duration::from_secs(10);
pub const PULL_LONGEST: Duration = Duration::from_secs(300);

/// Why something did not work, in the words of the pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub retry_at: Timestamp,
    /// Failures in a row.
    pub count: u32,
}

impl Failure {
    /// The failure that follows `before`, with the wait that follows its.
    pub fn after(
        before: Option<&Self>,
        reason: impl Into<String>,
        message: impl Into<String>,
        (first, longest): (Duration, Duration),
        now: Timestamp,
    ) -> Self {
        let count = before.map_or(0, |f| f.count) + 1;
        let wait = first.saturating_mul(1 << (count - 1).min(16)).min(longest);
        let retry_at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        Self { reason: reason.into(), message: message.into(), retry_at, count }
    }
}

/// How far something that is done once has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    #[default]
    Needed,
    /// Being done, after these failures in a row.
    Running(Option<Failure>),
    Done,
    Failed(Failure),
}

impl Progress {
    pub fn begin(&mut self) {
        *self = match std::mem::take(self) {
            Self::Failed(f) => Self::Running(Some(f)),
            _ => Self::Running(None),
        };
    }

    pub fn fail(&mut self, reason: &str, message: String, now: Timestamp) {
        let before = match self {
            Self::Running(before) => before.as_ref(),
            _ => None,
        };
        *self = Self::Failed(Failure::after(
            before,
            reason,
            message,
            (RETRY_FIRST, RETRY_LONGEST),
            now,
        ));
    }

    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }
}

/// Which probe gave a container up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

/// What the probes say about one run of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The run that this is about.
    pub container_id: String,
    pub started: bool,
    pub ready: bool,
    pub given_up: Option<(ProbeKind, String)>,
}

/// What is remembered of one container by name.
#[derive(Clone, Debug, Default)]
pub struct ContainerMemory {
    pub failure: Option<Failure>,
    pub backoff: Option<Backoff>,
    pub health: Health,
}

/// Why a pod is being ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The API object is being deleted, or gone.
    Deleted,
    /// The API says that it has ended already.
    Over,
    /// Ended by this kubelet: reason and message for its status, phase Failed.
    Failed { reason: String, message: String },
}

/// The pod must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub cause: Cause,
    /// Seconds between stop signal and SIGKILL.
    pub grace: i64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub setup: Progress,
    pub sandbox: Progress,
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Name of the container that is being started: one at a time, in order.
    pub starting: Option<String>,
    /// Containers that are being stopped, by id, with the grace they were given.
    pub killing: BTreeMap<String, i64>,
    /// Sandboxes and dead containers that are being stopped or removed, by id.
    pub removing: BTreeSet<String>,
    pub end: Option<End>,
    /// The pod may not start yet: the node's network is not ready.
    pub network_missing: Option<String>,
}

impl Memory {
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }
}
