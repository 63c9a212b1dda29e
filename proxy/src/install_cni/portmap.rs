//! The plugin `portmap`, which most clusters have on their nodes: it serves pods' `hostPort`. Where
//! it is, it is chained behind ours.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The plugin's name, which is its file's, too.
pub(super) const NAME: &str = "portmap";
/// What every portmap since 2021 speaks.
const COMMON: &str = "1.0.0";

/// Its place in the list: the runtime hands it the pod's ports.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Portmap {
    r#type: &'static str,
    capabilities: Capabilities,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    port_mappings: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    supported_versions: Vec<String>,
}

/// The plugin and the version for a list with it, at most `wanted`; nothing where it is not.
pub(super) fn find(bin_dir: &Path, wanted: &'static str) -> Option<(Portmap, &'static str)> {
    let path = bin_dir.join(NAME);
    if !path.exists() {
        return None;
    }
    let version = match versions(&path) {
        Ok(known) => [wanted, COMMON].into_iter().find(|v| known.iter().any(|own| own == v)),
        // It may need libraries that only the node has.
        Err(_) => Some(COMMON),
    };
    let Some(version) = version else {
        tracing::warn!(path = %path.display(), "too old a plugin: no pod's hostPort is served");
        return None;
    };
    let capabilities = Capabilities { port_mappings: true };
    Some((Portmap { r#type: NAME, capabilities }, version))
}

/// Asks the plugin, as the CNI specification has it.
fn versions(plugin: &Path) -> io::Result<Vec<String>> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing may have ended by now; its answer counts.
        let _ = input.write_all(br#"{"cniVersion":"1.0.0"}"#);
    }
    let output = child.wait_with_output()?;
    let answer: Versions = serde_json::from_slice(&output.stdout)?;
    Ok(answer.supported_versions)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn version_beside(script: &str) -> Option<&'static str> {
        let bin = tempfile::tempdir().expect("a directory");
        let path = bin.path().join(NAME);
        std::fs::write(&path, script).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
        find(bin.path(), "1.1.0").map(|(_, version)| version)
    }

    #[test]
    fn the_list_has_a_version_that_both_know() {
        let says = |versions: &str| {
            let answer = format!(r#"{{"cniVersion":"1.0.0","supportedVersions":[{versions}]}}"#);
            version_beside(&format!("#!/bin/sh\n[ $CNI_COMMAND = VERSION ] && echo '{answer}'\n"))
        };
        assert_eq!(says(r#""0.4.0","1.0.0","1.1.0""#), Some("1.1.0"));
        assert_eq!(says(r#""0.4.0","1.0.0""#), Some("1.0.0"));
        assert_eq!(says(r#""0.3.1""#), None, "older than any runtime of today");
        assert_eq!(version_beside("#!/no/such/loader\n"), Some("1.0.0"));
        let nothing = tempfile::tempdir().expect("a directory");
        assert_eq!(find(nothing.path(), "1.1.0"), None);
    }
}
