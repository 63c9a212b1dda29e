//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)), as far as this crate needs it.

use std::io;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The folder of the file system that is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// `ext4`, `cgroup2` and so on.
    pub(crate) kind: String,
    /// The file system's own options.
    pub(crate) options: String,
}

/// All mounts of this process's mount namespace, in the order in which they were made.
pub(crate) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// Lines that aren't understood are left out: newer kernels may add forms.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
    Some(Mount {
        root: unescape(root),
        point: unescape(point),
        kind: kind.to_owned(),
        options: options.to_owned(),
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        result.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                result.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                result.push('\\');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    PathBuf::from(result)
}

/// The mount points strictly below `folder`, deepest first.
pub(crate) fn below(mounts: &[Mount], folder: &Path) -> Vec<PathBuf> {
    let mut points: Vec<_> = mounts
        .iter()
        .map(|mount| mount.point.clone())
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
40 31 0:37 /a\\040b /mnt/c\\134d rw - ext4 /dev/vda rw,discard
not a mount
";

    #[test]
    fn escapes_and_optional_fields_are_understood() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].options, "rw,cpu");
        assert_eq!(mounts[2].root, Path::new("/a b"));
        assert_eq!(mounts[2].point, Path::new("/mnt/c\\d"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text: String) {
            parse(&format!("1 0 0:1 / /{text} rw - ext4 {text} rw\n{text}"));
        }
    }

    #[test]
    fn below_leaves_the_folder_itself_and_namesakes_out() {
        let mounts = parse(
            "1 0 0:1 / /run rw - tmpfs t rw\n2 0 0:2 / /run/a rw - tmpfs t rw\n\
             3 0 0:3 / /run/a/b rw - tmpfs t rw\n4 0 0:4 / /runner rw - tmpfs t rw\n",
        );
        assert_eq!(below(&mounts, Path::new("/run")), [Path::new("/run/a/b"), Path::new("/run/a")]);
    }
}
