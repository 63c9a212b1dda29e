//! Waiting for an apiserver that is still starting.

use std::time::Duration;

use kube::Client;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Returns once the apiserver says that it is ready, its first roles included: whoever starts to
/// watch before is told that it may not. Waits for ever; race it against a shutdown.
pub async fn until_ready(client: &Client) {
    loop {
        let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return };
        match client.request_text(request).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "the apiserver is not ready yet"),
        }
        tokio::time::sleep(LOOK).await;
    }
}
