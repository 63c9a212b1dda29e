//! The scheduler: finds each unbound pod a node, and says why when there is none.
//!
//! News of the API (`driver`) drives a plain state machine (`state`): a queue of waiting pods, a
//! picture of the cluster, and plugins that judge nodes. A binding is sent without waiting for the
//! one before: the chosen node counts as taken at once.

mod algorithm;
mod config;
mod driver;
mod plugins;
mod preemption;
mod queue;
mod resources;
mod snapshot;
mod state;

use tokio_util::sync::CancellationToken;

pub use config::{Config, DEFAULT_SCHEDULER};

/// Why the scheduler can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting contradicts another.
    #[error("scheduler's configuration: {0}")]
    Config(String),
}

/// Schedules until `shutdown`; an apiserver that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    if config.scheduler_name.is_empty() {
        return Err(Error::Config("scheduler_name is empty; name one".to_owned()));
    }
    driver::drive(config, shutdown).await;
    Ok(())
}
