//! What a cluster may leave on the machine, looked at from outside of the library.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Everything with the cluster's name in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    things: BTreeSet<String>,
}

impl Machine {
    /// Links, network namespaces, mounts, cgroups, processes, nftables tables and files.
    pub(crate) fn look(cluster: &str) -> Self {
        let name = format!("bowline-{cluster}");
        let mut things = BTreeSet::new();
        let links = fs::read_dir("/sys/class/net").expect("links").flatten();
        let links = links.map(|link| format!("link {}", link.file_name().display()));
        things.extend(links.filter(|link| link.contains(&name)));
        for folder in ["/run/netns", "/run/bowline-local", "/var/lib/bowline/local"] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let entries = entries.map(|entry| entry.path().display().to_string());
            things.extend(entries.filter(|path| path.contains(cluster)));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mounts = mounts.lines().filter(|line| line.contains(cluster));
        things.extend(mounts.map(|mount| format!("mount {mount}")));
        let groups = walk(Path::new("/sys/fs/cgroup"), 2);
        things.extend(groups.into_iter().filter(|group| group.contains(&name)));
        for process in fs::read_dir("/proc").expect("processes").flatten() {
            let group = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            // The dead wait for the machine's first process, which may take its time.
            let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
            if group.contains(&format!("{name}-n")) && !status.contains("State:\tZ") {
                things.insert(format!("process {}", process.file_name().display()));
            }
        }
        let tables = std::process::Command::new("nft").args(["list", "tables"]).output();
        let tables = tables.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let table = format!("bowline_{}", cluster.replace('-', "_"));
        things.extend(
            tables.unwrap_or_default().lines().filter(|t| t.contains(&table)).map(String::from),
        );
        Self { things }
    }

    /// Says what is there now that was not there before, or the other way round.
    pub(crate) fn assert_same(&self, before: &Self) {
        let left: Vec<_> = self.things.symmetric_difference(&before.things).collect();
        assert!(left.is_empty(), "the machine differs: {left:#?}");
    }
}

fn walk(folder: &Path, depth: usize) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .flat_map(|entry| {
            let below = if depth > 1 { walk(&entry.path(), depth - 1) } else { Vec::new() };
            below.into_iter().chain([entry.path().display().to_string()])
        })
        .collect()
}
