//! Where the root of the host's cgroup2 hierarchy is.

use std::fs;
use std::path::{Path, PathBuf};

use super::LoadError;

/// The root of process 1's cgroup2 mount, as this process can reach it. In a container this needs
/// hostPID: the container's own mount shows only its own subtree.
pub fn find_root() -> Result<PathBuf, LoadError> {
    let mounts = read("/proc/1/mountinfo")?;
    let host = mount(&mounts).ok_or(LoadError::NoCgroup2)?;
    let through = Path::new("/proc/1/root").join(host.point.trim_start_matches('/'));
    let error = match fs::metadata(&through) {
        Ok(_) => return Ok(through),
        Err(error) => error,
    };
    // Process 1 may have capabilities that we lack, and then its root is closed to us. That does
    // not matter where it is our own: mounts are numbered across all namespaces.
    let own = read("/proc/self/mountinfo")?;
    match mounts_of(&own).find(|mount| mount.id == host.id) {
        Some(own) => Ok(PathBuf::from(own.point)),
        None => Err(LoadError::file("reach", &through)(error)),
    }
}

fn read(path: &str) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(LoadError::file("read", Path::new(path)))
}

/// A line of a mountinfo file.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    id: &'a str,
    point: &'a str,
}

/// The cgroup2 mounts among the lines of a mountinfo file.
fn mounts_of(mounts: &str) -> impl Iterator<Item = Mount<'_>> {
    mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (id, point) = (fields.next()?, fields.nth(3)?);
        source.starts_with("cgroup2 ").then_some(Mount { id, point })
    })
}

/// Where there are several, the shortest path is the system's own.
fn mount(mounts: &str) -> Option<Mount<'_>> {
    mounts_of(mounts).min_by_key(|mount| mount.point.len())
}

#[cfg(test)]
mod tests {
    use super::{Mount, mount};

    #[test]
    fn the_cgroup2_mount_is_found_on_hybrid_and_pure_hosts() {
        let hybrid = "25 22 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 25 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                      90 25 0:32 / /run/x/y/somewhere/else/that/is/long rw - cgroup2 c rw\n";
        assert_eq!(mount(hybrid), Some(Mount { id: "35", point: "/sys/fs/cgroup/unified" }));
        let pure = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(pure), Some(Mount { id: "30", point: "/sys/fs/cgroup" }));
        assert_eq!(mount("30 22 0:26 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
