//! Which kinds the apiserver has, those that this code has never heard of too.

use kube::Client;
use kube::api::ApiResource;
use kube::discovery::{ApiCapabilities, ApiGroup, Discovery};

use crate::context::Error;

/// Every kind in its preferred version. Asked for in one piece where the apiserver can give it so.
pub(crate) async fn kinds(client: &Client) -> Result<Vec<(ApiResource, ApiCapabilities)>, Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            tracing::debug!(%error, "no aggregated discovery; groups are asked one by one");
            Discovery::new(client.clone()).run().await?
        }
    };
    Ok(discovery.groups().flat_map(ApiGroup::recommended_resources).collect())
}
