//! Where the root of the host's cgroup2 hierarchy is.

use std::fs;
use std::path::{Path, PathBuf};

use super::LoadError;

/// The root of process 1's cgroup2 mount, as this process can reach it. In a container this needs
/// hostPID: the container's own mount shows only its own subtree.
pub fn find_root() -> Result<PathBuf, LoadError> {
    let path = Path::new("/proc/1/mountinfo");
    let mounts = fs::read_to_string(path).map_err(LoadError::file("read", path))?;
    let point = mount_point(&mounts).ok_or(LoadError::NoCgroup2)?;
    Ok(Path::new("/proc/1/root").join(point.trim_start_matches('/')))
}

/// The mount point of cgroup2 among the lines of a mountinfo file; where there are several, the
/// shortest is the system's own.
fn mount_point(mounts: &str) -> Option<&str> {
    let points = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
    });
    points.min_by_key(|point| point.len())
}

#[cfg(test)]
mod tests {
    use super::mount_point;

    #[test]
    fn the_cgroup2_mount_is_found_on_hybrid_and_pure_hosts() {
        let hybrid = "25 22 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 25 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                      90 25 0:32 / /run/x/y/somewhere/else/that/is/long rw - cgroup2 c rw\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified"));
        let pure = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(pure), Some("/sys/fs/cgroup"));
        assert_eq!(mount_point("30 22 0:26 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
