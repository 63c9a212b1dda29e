//! The images of the cluster's own workloads, from the binaries beside the running one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Image, beside};
use crate::process::in_parallel;

/// `deploy/pause/pause.c`, compiled by the build script.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the images have Bowline's binaries.
const BIN: &str = "/usr/local/bin";

/// Builds the add-on images (proxy, dns, pause, busybox) from the binaries in `bin_dir` into
/// `cache_dir`, one archive each, and returns their paths. An image whose files are the same as
/// when it was built (by size, time and inode) is not built again.
///
/// # Errors
/// Names the file that is missing and what to install or build.
pub fn addons(bin_dir: &Path, cache_dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(cache_dir)?;
    let reference = |name: &str| format!("bowline/{name}:{VERSION}");
    let pause = Image::new(&reference("pause"))
        .bytes("/pause", PAUSE, 0o755)
        .entrypoint(&["/pause"])
        .user("65535:65535");
    let images = [
        ("pause", pause),
        ("proxy", program(&reference("proxy"), bin_dir, &["bowline-proxy", "bowline-cni"])?),
        ("dns", program(&reference("dns"), bin_dir, &["bowline-dns"])?),
        ("busybox", Image::busybox(&reference("busybox"))?),
    ];
    in_parallel(&images, |(name, image)| {
        let archive = cache_dir.join(format!("{name}.tar"));
        build(image, &archive).map(|()| archive)
    })
}

/// An image of static binaries of ours; the first is its program.
fn program(reference: &str, bin_dir: &Path, binaries: &[&str]) -> io::Result<Image> {
    let mut image = Image::new(reference).folder("/tmp", 0o1777);
    for binary in binaries {
        let source = bin_dir.join(binary);
        if !source.exists() {
            let what = format!(
                "{} is missing: build it (cargo build -p {binary}) or put it beside bowline",
                source.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        image = image.file(source, &format!("{BIN}/{binary}"), 0o755);
        image = image.link(&format!("/{binary}"), &format!("{BIN}/{binary}"));
    }
    let first = format!("{BIN}/{}", binaries.first().copied().unwrap_or_default());
    Ok(image.entrypoint(&[&first]).command(&["run"]))
}

fn build(image: &Image, archive: &Path) -> io::Result<()> {
    let stamp = stamp(image)?;
    let stamp_path = beside(archive, "from");
    if archive.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    image.write(archive)?;
    // After the archive: a kill between the two builds it once more, nothing worse.
    fs::write(stamp_path, stamp)
}

/// What the image is made of: every entry as it is, and every file's size, time and inode.
fn stamp(image: &Image) -> io::Result<String> {
    let mut stamp = format!("{image:?}\n");
    for source in image.sources() {
        let file = fs::metadata(source)?;
        let (size, seconds, nanos) = (file.size(), file.mtime(), file.mtime_nsec());
        stamp.push_str(&format!("{size} {seconds}.{nanos} {}\n", file.ino()));
    }
    Ok(super::sha256(stamp.as_bytes()))
}
