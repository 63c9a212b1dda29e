//! The kernel's switches under `/proc/sys/net`, of the calling thread's network namespace.

use std::{fs, path::PathBuf};

use super::LinkError;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// The value of a switch such as `net/ipv4/ip_forward`; `None` where the kernel doesn't have it.
pub fn get(name: &str) -> Option<i64> {
    fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

pub fn set(name: &str, value: i64) -> Result<(), LinkError> {
    fs::write(path(name), value.to_string())
        .map_err(|error| LinkError::new("set the sysctl", format!("{name} to {value}"), error))
}

/// Sets a switch that is there and has another value; `true` if it was changed.
pub fn ensure(name: &str, value: i64) -> Result<bool, LinkError> {
    match get(name) {
        Some(current) if current != value => set(name, value).map(|()| true),
        _ => Ok(false),
    }
}

/// The names of the namespace's interfaces that have a directory of IPv6 switches.
pub fn ipv6_interfaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir(path("net/ipv6/conf")) else { return vec![] };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
