//! Unused images go when the disk fills up. Source: "Garbage Collection", container images.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::cri::v1::Image;
use crate::pod::manager::Pods;

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(60);
/// Used part of the disk, in percent, at which images go, and that is aimed for.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// Younger images stay: somebody may be about to use them.
const LEAST_AGE: Duration = Duration::from_secs(120);

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub size: u64,
    pub used: u64,
}

/// Images to remove, those that have been known longest first, until enough is free.
pub fn choose<'a>(
    space: Space,
    images: &'a [Image],
    used: &HashSet<String>,
    age: impl Fn(&str) -> Duration,
) -> Vec<&'a Image> {
    let percent = |part: u64| space.size / 100 * part;
    if space.used < percent(HIGH) {
        return Vec::new();
    }
    let mut to_free = space.used.saturating_sub(percent(LOW));
    let is_used = |i: &Image| {
        used.contains(&i.id) || i.repo_tags.iter().chain(&i.repo_digests).any(|n| used.contains(n))
    };
    let mut free: Vec<_> =
        images.iter().filter(|i| !i.pinned && !is_used(i) && age(&i.id) >= LEAST_AGE).collect();
    free.sort_by_key(|i| std::cmp::Reverse(age(&i.id)));
    let mut chosen = Vec::new();
    for image in free {
        if to_free == 0 {
            break;
        }
        to_free = to_free.saturating_sub(image.size);
        chosen.push(image);
    }
    chosen
}

/// Looks after the disk until shutdown.
pub async fn run(ctx: Arc<Context>, pods: Pods) {
    let mut seen: HashMap<String, Instant> = HashMap::new();
    loop {
        if let Ok(images) = ctx.runtime.images().await {
            seen.retain(|id, _| images.iter().any(|i| i.id == *id));
            for image in &images {
                seen.entry(image.id.clone()).or_insert_with(Instant::now);
            }
            let age = |id: &str| seen.get(id).map_or(Duration::ZERO, Instant::elapsed);
            let mut used = in_use(&pods);
            used.extend(kept(&images, &ctx.config.kept_images));
            let chosen = space(&ctx).map(|s| choose(s, &images, &used, age)).unwrap_or_default();
            for image in chosen {
                tracing::info!(id = image.id, tags = ?image.repo_tags, "removing an unused image: the disk is full");
                if let Err(error) = ctx.runtime.remove_image(&image.id).await {
                    tracing::warn!(id = image.id, %error, "the image could not be removed");
                }
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Ids of the images that no registry could give back: those of a name with one of `prefixes`.
fn kept(images: &[Image], prefixes: &[String]) -> Vec<String> {
    let named = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    images.iter().filter(|i| i.repo_tags.iter().any(named)).map(|i| i.id.clone()).collect()
}

fn space(ctx: &Context) -> Option<Space> {
    let fs = nix::sys::statvfs::statvfs(&ctx.config.root_dir).ok()?;
    let size = fs.blocks() * fs.fragment_size();
    Some(Space { size, used: size.saturating_sub(fs.blocks_available() * fs.fragment_size()) })
}

/// Ids and names of the images of all containers, also of those that have ended.
fn in_use(pods: &Pods) -> HashSet<String> {
    let mut used = HashSet::new();
    for handle in pods.all() {
        for c in handle.shown().runtime.containers {
            used.extend([c.image, c.image_ref]);
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(used: u64, expected: &[&str]) {
        let image =
            |id: &str, size, pinned| Image { id: id.to_owned(), size, pinned, ..Image::default() };
        let images = [
            image("pause", 9, true),
            image("running", 9, false),
            image("old", 2, false),
            image("older", 3, false),
            image("new", 9, false),
        ];
        let in_use = HashSet::from(["running".to_owned()]);
        let age = |id: &str| match id {
            "new" => Duration::from_secs(1),
            "old" => Duration::from_secs(500),
            _ => Duration::from_secs(900),
        };
        let chosen = choose(Space { size: 100, used }, &images, &in_use, age);
        assert_eq!(chosen.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), expected, "{used} %");
    }

    #[test]
    fn images_of_no_registry_are_kept() {
        let image = |id: &str, tag: &str| Image {
            id: id.to_owned(),
            repo_tags: vec![tag.to_owned()],
            ..Image::default()
        };
        let images = [image("a", "docker.io/bowline/pause:0.1.0"), image("b", "docker.io/x/y:1")];
        assert_eq!(kept(&images, &["docker.io/bowline/".to_owned()]), ["a"]);
    }

    #[test]
    fn unused_images_go_when_the_disk_is_nearly_full_the_oldest_first() {
        check(84, &[]);
        check(85, &["older", "old"]);
        check(99, &["older", "old"]);
    }
}
