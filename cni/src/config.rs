//! The network configuration from stdin: raw JSON, then the checked [`Config`].

use std::{collections::BTreeSet, path::PathBuf};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::{Code, Failure},
    request::{AttachmentId, Command},
};

/// Versions of the CNI specification that the plugin speaks, oldest first.
pub const VERSIONS: [Version; 5] =
    [Version(0, 3, 0), Version(0, 3, 1), Version(0, 4, 0), Version(1, 0, 0), Version(1, 1, 0)];

pub const DEFAULT_STATE_DIR: &str = "/var/lib/cni/bowline";

/// More ranges than this are a mistake, not a plan.
pub const RANGES_MAX: usize = 64;

/// The smallest MTU that IPv4 (RFC 791) and IPv6 (RFC 8200) allow, and the largest of a veth.
const MTU_BOUNDS: [u32; 3] = [68, 1280, 65535];

/// Fields of a plugin's configuration that the specification, libcni or this plugin know.
const KNOWN_FIELDS: [&str; 17] = [
    "args",
    "capabilities",
    "clusterCidrs",
    "cniVersion",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "dns",
    "ipMasq",
    "loadOnlyInlinedPlugins",
    "mtu",
    "name",
    "prevResult",
    "ranges",
    "runtimeConfig",
    "stateDir",
    "type",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u8, pub u8, pub u8);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub version: Version,
    pub network: String,
    /// Pools of pod addresses. An attachment gets one address of each family that occurs; pools
    /// of the same family are tried in order. Empty only for DEL and GC.
    pub ranges: Vec<IpNetwork>,
    /// `None`: the MTU of the node's uplink.
    pub mtu: Option<u32>,
    pub state_dir: PathBuf,
    /// Result of the ADD, as the runtime kept it. Always set for CHECK.
    pub prev_result: Option<Value>,
    /// Attachments that GC must keep.
    pub valid_attachments: BTreeSet<AttachmentId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    ranges: Vec<String>,
    #[serde(default)]
    mtu: u32,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    runtime_config: Map<String, Value>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    /// libcni wrote this name before the specification settled.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The version that an answer to these bytes should carry, as well as it can be told.
pub fn version_of(stdin: &[u8]) -> String {
    #[derive(Deserialize)]
    struct OnlyVersion {
        #[serde(rename = "cniVersion")]
        cni_version: Option<String>,
    }
    serde_json::from_slice::<OnlyVersion>(stdin)
        .ok()
        .and_then(|only| only.cni_version)
        .filter(|version| !version.is_empty())
        .unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_string())
}

impl Config {
    /// Decodes and checks `stdin` for `command`. Nothing is touched on the machine.
    pub fn parse(stdin: &[u8], command: Command) -> Result<Self, Failure> {
        let object: Map<String, Value> = serde_json::from_slice(stdin).map_err(|error| {
            Failure::new(Code::DecodeFailure, "the network configuration is not a JSON object")
                .details(error)
        })?;
        let unknown = object
            .iter()
            .find(|(key, _)| !KNOWN_FIELDS.contains(&key.as_str()) && !key.contains(['.', '/']));
        if let Some((key, value)) = unknown {
            return Err(Failure::new(
                Code::UnsupportedField,
                format!("the network configuration has an unsupported field {key:?}: {value}"),
            ));
        }
        let raw: Raw = serde_json::from_value(Value::Object(object)).map_err(|error| {
            Failure::new(Code::DecodeFailure, "the network configuration does not decode")
                .details(error)
        })?;
        raw.check(command)
    }
}

impl Raw {
    fn check(self, command: Command) -> Result<Config, Failure> {
        let version = check_version(&self.cni_version, command)?;
        if self.name.is_empty() {
            return Err(invalid("the network configuration has no name"));
        }
        if let Some(mappings) = self.runtime_config.get("portMappings")
            && mappings.as_array().is_none_or(|list| !list.is_empty())
        {
            return Err(invalid("this plugin does not do portMappings").details(
                "take the capability out of its configuration, or chain a plugin that does",
            ));
        }
        let needs_ranges = matches!(command, Command::Add | Command::Check | Command::Status);
        let ranges = match parse_ranges(&self.ranges) {
            Ok(ranges) if ranges.is_empty() && needs_ranges => {
                return Err(invalid("the network configuration has no ranges")
                    .details("give the node's pod CIDRs, as in \"ranges\": [\"10.244.1.0/24\"]"));
            }
            Err(failure) if needs_ranges => return Err(failure),
            parsed => parsed.unwrap_or_default(),
        };
        let mtu = check_mtu(self.mtu, &ranges)?;
        if command == Command::Check && self.prev_result.is_none() {
            return Err(invalid("CHECK needs prevResult in the network configuration"));
        }
        let state_dir = self.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        if !state_dir.is_absolute() {
            return Err(invalid(format!("stateDir {state_dir:?} is not an absolute path")));
        }
        let valid_attachments = match self.valid_attachments.or(self.attachments) {
            None if command == Command::Gc => {
                return Err(invalid("GC needs cni.dev/valid-attachments")
                    .details("an absent list is not taken for an empty one"));
            }
            list => list
                .unwrap_or_default()
                .iter()
                .map(|raw| AttachmentId::new(&raw.container_id, &raw.ifname))
                .collect::<Result<_, _>>()?,
        };
        Ok(Config {
            version,
            network: self.name,
            ranges,
            mtu,
            state_dir,
            prev_result: self.prev_result,
            valid_attachments,
        })
    }
}

fn invalid(msg: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidConfig, msg)
}

fn check_version(text: &str, command: Command) -> Result<Version, Failure> {
    let version = VERSIONS.into_iter().find(|version| version.to_string() == text);
    let Some(version) = version else {
        return Err(Failure::new(
            Code::IncompatibleVersion,
            format!("cniVersion {text:?} is not supported"),
        )
        .details(format!("supported are {}", VERSIONS.map(|v| v.to_string()).join(", "))));
    };
    let since = match command {
        Command::Check => Version(0, 4, 0),
        Command::Gc | Command::Status => Version(1, 1, 0),
        _ => VERSIONS[0],
    };
    if version < since {
        return Err(Failure::new(
            Code::IncompatibleVersion,
            format!(
                "{command:?} exists since cniVersion {since}, the configuration says {version}"
            ),
        ));
    }
    Ok(version)
}

fn parse_ranges(texts: &[String]) -> Result<Vec<IpNetwork>, Failure> {
    if texts.len() > RANGES_MAX {
        return Err(invalid(format!("there are {} ranges, at most {RANGES_MAX}", texts.len())));
    }
    let mut ranges: Vec<IpNetwork> = vec![];
    for text in texts {
        let range: IpNetwork = text
            .parse()
            .map_err(|error| invalid(format!("range {text:?} is not a CIDR")).details(error))?;
        if range.ip() != range.network() {
            return Err(invalid(format!("range {text:?} has bits set beyond its prefix"))
                .details(format!("write {}/{}", range.network(), range.prefix())));
        }
        if let Some(other) = ranges.iter().find(|other| overlap(other, &range)) {
            return Err(invalid(format!("the ranges {other} and {range} overlap")));
        }
        if crate::ipam::capacity(&range) == 0 {
            return Err(invalid(format!("range {range} is too small to hold a pod")));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

fn check_mtu(mtu: u32, ranges: &[IpNetwork]) -> Result<Option<u32>, Failure> {
    let [floor_v4, floor_v6, ceiling] = MTU_BOUNDS;
    let floor = if ranges.iter().any(IpNetwork::is_ipv6) { floor_v6 } else { floor_v4 };
    match mtu {
        0 => Ok(None),
        mtu if (floor..=ceiling).contains(&mtu) => Ok(Some(mtu)),
        mtu => Err(invalid(format!("mtu {mtu} is not within {floor} to {ceiling}"))
            .details("0 takes the uplink's")),
    }
}

#[cfg(test)]
mod tests;
