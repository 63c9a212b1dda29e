//! What a pod may be told about itself: fieldRef and resourceFieldRef.

use std::net::IpAddr;

use bowline_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use crate::pod::qos::{Side, amount};
use crate::pod::view;

/// A pod asked for something about itself that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("fieldRef {path:?} is not a field that a pod can be told")]
    UnknownField { path: String },
    #[error("resourceFieldRef {resource:?} is not a resource that a pod can be told")]
    UnknownResource { resource: String },
    #[error("resourceFieldRef names container {name:?}, which the pod does not have")]
    UnknownContainer { name: String },
    #[error("divisor {text:?} is not a positive quantity")]
    Divisor { text: String },
}

/// What is known of the pod's place.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub node_name: String,
    pub host_ips: Vec<IpAddr>,
    pub pod_ips: Vec<IpAddr>,
    /// What a pod without limits can have at most: millicores and bytes.
    pub allocatable_cpu: u64,
    pub allocatable_memory: u64,
}

/// The value of a field of the pod, as text.
pub fn value(pod: &Pod, place: &Place, path: &str) -> Result<String, Error> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(Error::UnknownField { path: path.to_owned() }),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => view::name(pod).to_owned(),
        "metadata.namespace" => view::namespace(pod).to_owned(),
        "metadata.uid" => view::uid(pod).to_owned(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => place.node_name.clone(),
        "spec.serviceAccountName" => {
            view::spec(pod).service_account_name.clone().unwrap_or_default()
        }
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => join(&place.host_ips),
        "status.podIP" => first(&place.pod_ips),
        "status.podIPs" => join(&place.pod_ips),
        _ => return Err(Error::UnknownField { path: path.to_owned() }),
    })
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    Some((map, key))
}

fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let line = |(k, v): (&String, &String)| format!("{k}={v:?}");
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// The value of a container's resource, divided and rounded up, as text. `own` is the container that
/// asks, for selectors that name none.
pub fn resource(
    pod: &Pod,
    place: &Place,
    own: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, Error> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(own);
    let unknown = || Error::UnknownContainer { name: name.to_owned() };
    let (_, container) = view::container(pod, name).ok_or_else(unknown)?;
    let no_resource = || Error::UnknownResource { resource: selector.resource.clone() };
    let (side, resource) = match selector.resource.split_once('.') {
        Some(("limits", r)) => (Side::Limit, r),
        Some(("requests", r)) => (Side::Request, r),
        _ => return Err(no_resource()),
    };
    let mut asked = amount(&container, resource, side);
    if asked == 0 && side == Side::Limit {
        asked = match resource {
            "cpu" => place.allocatable_cpu,
            "memory" => place.allocatable_memory,
            _ => 0,
        };
    }
    let text = selector.divisor.as_ref().map_or("", |d| d.0.as_str());
    let bad = || Error::Divisor { text: text.to_owned() };
    let divisor: Quantity = match text {
        "" | "0" => Quantity::from_units(1),
        _ => text.parse().map_err(|_| bad())?,
    };
    let divisor = if resource == "cpu" { divisor.millis() } else { divisor.units() };
    let divisor = u64::try_from(divisor).ok().filter(|d| *d > 0).ok_or_else(bad)?;
    Ok(asked.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources":
                {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_are_found_by_path_and_subscript() {
        let place = Place { node_name: "n1".into(), ..Place::default() };
        let get = |path| value(&pod(), &place, path);
        assert_eq!(get("metadata.name").as_deref(), Ok("p"));
        assert_eq!(get("metadata.labels['a']").as_deref(), Ok("1"));
        assert_eq!(get("metadata.labels").as_deref(), Ok("a=\"1\"\nb=\"x\\\"y\""));
        assert_eq!(get("spec.nodeName").as_deref(), Ok("n1"));
        assert!(get("spec.containers").is_err(), "not every field may be told");
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let get = |resource: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                resource: resource.to_owned(),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                    divisor.into(),
                )),
                container_name: None,
            };
            super::resource(&pod(), &Place::default(), "c", &selector)
        };
        assert_eq!(get("limits.cpu", "0").as_deref(), Ok("2"));
        assert_eq!(get("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(get("requests.memory", "1Mi").as_deref(), Ok("64"));
        assert!(get("memory", "1").is_err());
    }
}
