//! Rotation: a container's log is renamed when it is too large, and the runtime opens a new one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::context::Context;
use crate::pod::manager::Pods;
use crate::runtime::State;

/// How often sizes are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Rotates logs until shutdown.
pub async fn run(ctx: std::sync::Arc<Context>, pods: Pods) {
    loop {
        for handle in pods.all() {
            let running = handle.shown().runtime.containers;
            for c in running.into_iter().filter(|c| c.state == State::Running) {
                let path = PathBuf::from(&c.log_path);
                let large =
                    std::fs::metadata(&path).is_ok_and(|m| m.len() > ctx.config.log_max_size);
                if !large {
                    continue;
                }
                let rotated = match rotate(&path, ctx.config.log_max_files) {
                    Ok(rotated) => rotated,
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a log could not be rotated");
                        continue;
                    }
                };
                if let Err(error) = ctx.runtime.reopen_log(&c.id).await {
                    // The runtime goes on writing to the renamed file: give it its name back.
                    let _ = std::fs::rename(&rotated, &path);
                    tracing::warn!(path = %path.display(), %error, "a log could not be reopened");
                }
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Renames the log and removes the oldest, so that with the new one at most `keep` files are there.
fn rotate(path: &Path, keep: usize) -> std::io::Result<PathBuf> {
    let mut old = older(path);
    old.sort();
    let surplus = (old.len() + 2).saturating_sub(keep.max(2));
    for file in old.iter().take(surplus) {
        std::fs::remove_file(file)?;
    }
    let time = Timestamp::now().strftime("%Y%m%d-%H%M%S%.6f").to_string();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{time}"));
    let rotated = PathBuf::from(name);
    std::fs::rename(path, &rotated)?;
    Ok(rotated)
}

/// Earlier parts of the log.
fn older(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_so_many_files_are_kept_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        for n in 0..6 {
            std::fs::write(&path, n.to_string()).expect("written");
            rotate(&path, 3).expect("rotated");
        }
        std::fs::write(&path, "now").expect("written");
        let mut kept = older(&path);
        kept.sort();
        let contents: Vec<_> =
            kept.iter().map(|p| std::fs::read_to_string(p).expect("read")).collect();
        assert_eq!(contents, ["4", "5"]);
    }
}
