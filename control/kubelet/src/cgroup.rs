//! The cgroups of pods, in version 1 and 2 (and both at once), by the cgroupfs driver's layout:
//! `<root>/kubepods[/burstable|/besteffort]/pod<uid>`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::make::resources::{PERIOD, PodResources, of_pod};
use crate::pod::qos::{Class, class};
use crate::pod::view;

/// Version 1 hierarchies in which pods get a cgroup with limits; the runtime makes the others.
const V1_LIMITED: [&str; 3] = ["cpu", "memory", "pids"];
/// Version 2 controllers that pods may use.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Deepest nesting below a pod's cgroup that is removed.
const MAX_DEPTH: usize = 8;

/// A pod's cgroup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create the cgroup {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("write {value:?} to {}", path.display())]
    Write { path: PathBuf, value: String, source: io::Error },
}

/// The cgroup file systems of this node.
#[derive(Clone, Debug)]
pub struct Cgroups {
    mount: PathBuf,
    root: String,
    v2: bool,
}

impl Cgroups {
    /// Looks at `mount` for the version; `root` is the path below which `kubepods` lies.
    pub fn detect(mount: &Path, root: &str) -> Self {
        let v2 = mount.join("cgroup.controllers").exists();
        Self { mount: mount.to_owned(), root: root.trim_end_matches('/').to_owned(), v2 }
    }

    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// The cgroup of `pod`, as a path in every hierarchy.
    pub fn path(&self, pod: &Pod) -> String {
        let class = match class(pod) {
            Class::Guaranteed => "",
            Class::Burstable => "/burstable",
            Class::BestEffort => "/besteffort",
        };
        format!("{}/kubepods{class}/pod{}", self.root, view::uid(pod))
    }

    /// Makes the cgroup of `pod` and sets its limits.
    pub fn ensure(&self, pod: &Pod) -> Result<(), Error> {
        let (path, wanted) = (self.path(pod), of_pod(pod));
        if self.v2 {
            let dir = self.make_v2(&path)?;
            return limits_v2(&dir, &wanted);
        }
        for name in V1_LIMITED {
            let hierarchy = self.mount.join(name);
            if !hierarchy.is_dir() {
                continue;
            }
            let dir = hierarchy.join(path.trim_start_matches('/'));
            create(&dir)?;
            match name {
                "cpu" => {
                    write(&dir, "cpu.shares", &wanted.cpu_shares.to_string())?;
                    write(&dir, "cpu.cfs_period_us", &PERIOD.to_string())?;
                    write(&dir, "cpu.cfs_quota_us", &wanted.cpu_quota.unwrap_or(-1).to_string())?;
                }
                "memory" => {
                    if let Some(bytes) = wanted.memory_limit {
                        write(&dir, "memory.limit_in_bytes", &bytes.to_string())?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes every cgroup on the way and lets the next use the controllers.
    fn make_v2(&self, path: &str) -> Result<PathBuf, Error> {
        let mut dir = self.mount.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            for controller in V2_CONTROLLERS {
                // A controller that is missing or can't be delegated only costs its limits.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir.push(part);
            create(&dir)?;
        }
        for controller in V2_CONTROLLERS {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        Ok(dir)
    }

    /// Removes a pod's cgroup from every hierarchy; processes that are left in it are killed.
    pub fn remove(&self, path: &str) {
        for hierarchy in self.hierarchies() {
            let dir = hierarchy.join(path.trim_start_matches('/'));
            if dir.is_dir() {
                remove_tree(&dir, 0);
            }
        }
    }

    /// Pods that have a cgroup: their UIDs and paths.
    pub fn pods(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for hierarchy in self.hierarchies() {
            for class in ["", "/burstable", "/besteffort"] {
                let parent = format!("{}/kubepods{class}", self.root);
                let dir = hierarchy.join(parent.trim_start_matches('/'));
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    let Some(uid) = name.to_str().and_then(|n| n.strip_prefix("pod")) else {
                        continue;
                    };
                    let one = (uid.to_owned(), format!("{parent}/pod{uid}"));
                    if !found.contains(&one) {
                        found.push(one);
                    }
                }
            }
        }
        found
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.v2 {
            return vec![self.mount.clone()];
        }
        let all = fs::read_dir(&self.mount).into_iter().flatten().flatten();
        all.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
    }
}

fn create(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| Error::Create { path: dir.to_owned(), source })
}

fn write(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = dir.join(file);
    match fs::write(&path, value) {
        Ok(()) => Ok(()),
        // The controller is not there: its limits are the only loss.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !path.exists() => Ok(()),
        Err(source) => Err(Error::Write { path, value: value.to_owned(), source }),
    }
}

fn limits_v2(dir: &Path, wanted: &PodResources) -> Result<(), Error> {
    write(dir, "cpu.weight", &weight(wanted.cpu_shares).to_string())?;
    if let Some(quota) = wanted.cpu_quota {
        write(dir, "cpu.max", &format!("{quota} {PERIOD}"))?;
    }
    if let Some(bytes) = wanted.memory_limit {
        write(dir, "memory.max", &bytes.to_string())?;
    }
    Ok(())
}

/// Shares 2..262144 as weight 1..10000, the mapping that runtimes use.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn remove_tree(dir: &Path, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path(), depth + 1);
        }
    }
    if fs::remove_dir(dir).is_err() {
        kill_all(dir);
        if let Err(error) = fs::remove_dir(dir) {
            tracing::debug!(dir = %dir.display(), %error, "a cgroup is still in use");
        }
    }
}

fn kill_all(dir: &Path) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 1) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_weights_at_both_ends() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
