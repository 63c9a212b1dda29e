//! The result of ADD, in the form of each version of the specification; and what CHECK reads of it.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

use crate::config::Version;

/// What ADD made, for the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddResult<'a> {
    pub host_ifname: &'a str,
    pub host_mac: String,
    pub ifname: &'a str,
    pub mac: String,
    pub mtu: u32,
    pub netns: &'a Path,
    /// Pod addresses, each with the gateway of its family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
}

impl AddResult<'_> {
    pub fn to_json(&self, version: Version) -> Value {
        let before_1_0 = version < Version(1, 0, 0);
        let mut interfaces = [
            json!({"name": self.host_ifname, "mac": self.host_mac}),
            json!({"name": self.ifname, "mac": self.mac, "sandbox": self.netns}),
        ];
        if version >= Version(1, 1, 0) {
            for interface in &mut interfaces {
                interface["mtu"] = self.mtu.into();
            }
        }
        let ips = self.addresses.iter().map(|(address, gateway)| {
            let (prefix, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
            let mut ip = json!({
                "interface": 1, "address": format!("{address}/{prefix}"), "gateway": gateway,
            });
            if before_1_0 {
                ip["version"] = family.into();
            }
            ip
        });
        let routes = self.addresses.iter().map(|(address, gateway)| {
            let default = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({"dst": default, "gw": gateway})
        });
        json!({
            "cniVersion": version.to_string(),
            "interfaces": interfaces,
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": {},
        })
    }
}

/// The pod addresses that a previous result promises. Of `ips` those count that name the interface
/// `ifname` (by index into `interfaces`) or none at all.
pub fn promised_addresses(prev_result: &Value, ifname: &str) -> Vec<IpAddr> {
    let interface_of = |ip: &Value| -> Option<String> {
        let index = usize::try_from(ip["interface"].as_u64()?).ok()?;
        Some(prev_result["interfaces"].get(index)?["name"].as_str()?.to_owned())
    };
    prev_result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|ip| interface_of(ip).is_none_or(|name| name == ifname))
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> AddResult<'static> {
        AddResult {
            host_ifname: "bwl1",
            host_mac: "02:00:00:00:00:01".into(),
            ifname: "eth0",
            mac: "02:00:00:00:00:02".into(),
            mtu: 1500,
            netns: Path::new("/run/netns/x"),
            addresses: vec![
                ("10.0.0.2".parse().expect("address"), "169.254.1.1".parse().expect("address")),
                ("fd00::2".parse().expect("address"), "fe80::1".parse().expect("address")),
            ],
        }
    }

    #[test]
    fn each_version_gets_its_own_form() {
        let old = result().to_json(Version(0, 3, 1));
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        let current = result().to_json(Version(1, 0, 0));
        assert_eq!(current["cniVersion"], "1.0.0");
        assert_eq!(current["ips"][0].get("version"), None);
        assert_eq!(current["interfaces"][1].get("mtu"), None);
        assert_eq!(result().to_json(Version(1, 1, 0))["interfaces"][1]["mtu"], 1500);
    }

    #[test]
    fn a_result_promises_the_addresses_that_it_names() {
        let addresses = promised_addresses(&result().to_json(Version(1, 0, 0)), "eth0");
        assert_eq!(addresses.len(), 2);
        assert!(promised_addresses(&json!({}), "eth0").is_empty());
        let foreign = json!({
            "interfaces": [{"name": "net1"}],
            "ips": [{"interface": 0, "address": "10.0.0.9/24"}],
        });
        assert!(promised_addresses(&foreign, "eth0").is_empty());
    }
}
