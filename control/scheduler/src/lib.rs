//! The scheduler: finds each unbound pod a node, and says why when there is none.

mod config;

pub use config::Config;

use tokio_util::sync::CancellationToken;

/// Why the scheduler can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting contradicts another.
    #[error("scheduler's configuration: {0}")]
    Config(String),
}

/// Schedules until `shutdown`; an apiserver that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}
