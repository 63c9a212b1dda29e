//! What the scheduler is told from outside.

/// Pods that name no scheduler get this one.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Settings of [`crate::run`].
#[derive(Clone)]
pub struct Config {
    /// Talks to the apiserver as `system:kube-scheduler`.
    pub client: kube::Client,
    /// Pods whose `spec.schedulerName` is this one are ours.
    pub scheduler_name: String,
}

impl Config {
    /// The scheduler of pods that name no other.
    pub fn new(client: kube::Client) -> Self {
        Self { client, scheduler_name: DEFAULT_SCHEDULER.to_owned() }
    }
}
