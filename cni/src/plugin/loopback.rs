//! The plugin `loopback`: brings a pod's `lo` up.
//!
//! containerd runs a plugin of that name in every pod, whatever the network. A node whose network
//! is ours alone needs no other package then: the same binary is installed under both names.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    config::version_of,
    error::{Code, Failure},
    link::{Netlink, Netns},
    request::{Command, Request},
};

/// The configuration's `type` by which this role is asked for.
const TYPE: &str = "loopback";

/// Whether the configuration asks for this role.
pub(super) fn is_asked_for(stdin: &[u8]) -> bool {
    serde_json::from_slice::<Value>(stdin).is_ok_and(|config| config["type"] == TYPE)
}

/// Carries out one request. DEL has nothing to do: `lo` goes with its namespace.
pub(super) fn run(request: &Request, stdin: &[u8]) -> Result<Option<String>, Failure> {
    match (request.command, &request.netns) {
        (Command::Version, _) => Ok(Some(super::version(stdin))),
        (Command::Add, Some(netns)) => add(netns, stdin).map(Some),
        (Command::Check, Some(netns)) => check(netns).map(|()| None),
        _ => Ok(None),
    }
}

fn open(netns: &Path) -> Result<Netlink, Failure> {
    let netns = Netns::open(netns)
        .map_err(|error| Failure { code: Code::UnknownContainer, ..Failure::from(error) })?;
    Ok(netns.enter(Netlink::open)??)
}

fn add(netns: &Path, stdin: &[u8]) -> Result<String, Failure> {
    let mut inside = open(netns)?;
    if let Some(lo) = inside.link("lo")? {
        inside.set_up(lo.index)?;
    }
    let config: Value = serde_json::from_slice(stdin).unwrap_or_default();
    // In a chain the result so far is handed on; alone, `lo` and its address are the result.
    let mut result = match &config["prevResult"] {
        Value::Object(previous) => Value::Object(previous.clone()),
        _ => json!({
            "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0, "version": "4"}],
            "dns": {},
        }),
    };
    result["cniVersion"] = version_of(stdin).into();
    Ok(result.to_string())
}

fn check(netns: &Path) -> Result<(), Failure> {
    match open(netns)?.link("lo")? {
        Some(lo) if lo.up => Ok(()),
        _ => Err(Failure::new(Code::CheckFailed, "lo is down")),
    }
}
