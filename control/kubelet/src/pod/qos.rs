//! Quality of service: whom the kernel starves first. Source: "Pod Quality of Service Classes".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::view;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod: Guaranteed when every container's limits are its requests for both CPU and
/// memory, BestEffort when none asks for anything.
pub fn class(pod: &Pod) -> Class {
    let containers =
        || view::main_containers(pod).chain(view::init_containers(pod).map(|(_, c)| c));
    let asks = |c: &Container| {
        ["cpu", "memory"]
            .iter()
            .any(|r| amount(c, r, Side::Request) > 0 || amount(c, r, Side::Limit) > 0)
    };
    if !containers().any(asks) {
        return Class::BestEffort;
    }
    let pinned = |c: &Container| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = amount(c, r, Side::Limit);
            limit > 0 && amount(c, r, Side::Request) == limit
        })
    };
    if containers().all(pinned) { Class::Guaranteed } else { Class::Burstable }
}

/// Which half of a container's resources is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Limit,
}

/// CPU in millicores, anything else in units; a request that is missing is the limit.
pub fn amount(c: &Container, resource: &str, side: Side) -> u64 {
    let Some(resources) = &c.resources else { return 0 };
    let limits = resources.limits.as_ref();
    let from = |map: Option<&BTreeMap<String, Quantity>>| {
        let exact: bowline_api::quantity::Quantity = map?.get(resource)?.0.parse().ok()?;
        u64::try_from(if resource == "cpu" { exact.millis() } else { exact.units() }).ok()
    };
    let found = match side {
        Side::Limit => from(limits),
        Side::Request => from(resources.requests.as_ref()).or_else(|| from(limits)),
    };
    found.unwrap_or(0)
}
