//! The archives are the same each time, and containerd's own rules are kept.

use std::collections::BTreeMap;

use super::*;

fn image(folder: &Path) -> Image {
    let source = folder.join("program");
    fs::write(&source, b"#!/bin/sh\n").expect("written");
    Image::new("bowline/example:1")
        .file(source, "/usr/bin/program", 0o755)
        .link("/program", "/usr/bin/program")
        .folder("/tmp", 0o1777)
        .entrypoint(&["/usr/bin/program"])
}

fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(archive);
    let entries = tar.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its content");
        (entry.path().expect("a path").to_string_lossy().into_owned(), content)
    });
    entries.collect()
}

#[test]
fn the_same_files_give_the_same_archive() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
    let first = image(folder.path()).write(&one).expect("written");
    let second = image(folder.path()).write(&two).expect("written");
    assert_eq!(first, second);
    assert_eq!(fs::read(&one).expect("read"), fs::read(&two).expect("read"));
    let other = image(folder.path()).command(&["x"]).write(&two).expect("written");
    assert_ne!(first, other, "another command is another image");
    let names: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert_eq!(names.len(), 3, "temporary files are left: {names:?}");
}

#[test]
fn every_blob_is_named_by_its_digest_and_every_descriptor_is_true() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.tar");
    let digest = image(folder.path()).write(&path).expect("written");
    let entries = entries(&fs::read(&path).expect("read"));
    for (name, content) in entries.iter().filter(|(name, _)| name.starts_with("blobs/sha256/")) {
        if name.ends_with('/') {
            continue;
        }
        assert_eq!(*name, blob_name(&sha256(content)));
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&entries[&blob_name(&digest)]).expect("a manifest");
    let layer = &manifest["layers"][0];
    let content = &entries[&blob_name(layer["digest"].as_str().expect("a digest"))];
    assert_eq!(layer["size"], content.len());
    let config = manifest["config"]["digest"].as_str().expect("a digest");
    let config: serde_json::Value =
        serde_json::from_slice(&entries[&blob_name(config)]).expect("a config");
    assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
    let files = self::entries(content);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["program", "tmp/", "usr/", "usr/bin/", "usr/bin/program"]);
}

#[test]
fn references_are_completed_as_containerd_does() {
    for (short, full) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("bowline/proxy:0.1.0", "docker.io/bowline/proxy:0.1.0"),
        ("localhost/x", "localhost/x:latest"),
        ("registry:5000/x", "registry:5000/x:latest"),
        ("k8s.local/pause:1", "k8s.local/pause:1"),
        ("a/b@sha256:00", "docker.io/a/b@sha256:00"),
    ] {
        assert_eq!(normalized(short), full);
    }
}

#[test]
fn archives_tell_what_they_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.tar");
    let digest = image(folder.path()).write(&path).expect("written");
    let reference = "docker.io/bowline/example:1".to_owned();
    assert_eq!(named(&path).expect("readable"), [Named { reference, digest: Some(digest) }]);

    let docker = folder.path().join("docker.tar");
    let mut builder = Builder::new(File::create(&docker).expect("a file"));
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:2"],"Layers":[]}]"#;
    bytes(&mut builder, "manifest.json", manifest).expect("written");
    builder.into_inner().expect("written");
    let reference = "docker.io/library/app:2".to_owned();
    assert_eq!(named(&docker).expect("readable"), [Named { reference, digest: None }]);
}

#[test]
fn a_missing_binary_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = addons(folder.path(), &folder.path().join("cache")).expect_err("no binaries");
    let text = error.to_string();
    assert!(text.contains("bowline-proxy is missing: build it"), "{text}");
}

#[test]
fn add_ons_are_built_once_and_again_when_a_binary_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    for binary in ["bowline-proxy", "bowline-cni", "bowline-dns"] {
        fs::write(folder.path().join(binary), binary).expect("written");
    }
    let cache = folder.path().join("cache");
    let archives = addons(folder.path(), &cache).expect("built");
    let digests = || -> Vec<_> {
        archives.iter().map(|archive| named(archive).expect("readable")[0].clone()).collect()
    };
    let times = || -> Vec<_> {
        let times = archives.iter().map(|archive| fs::metadata(archive).expect("a file"));
        times.map(|data| data.modified().expect("a time")).collect()
    };
    let (first, built) = (digests(), times());
    addons(folder.path(), &cache).expect("there already");
    assert_eq!(built, times(), "built again without need");
    fs::write(folder.path().join("bowline-dns"), "another").expect("written");
    addons(folder.path(), &cache).expect("built");
    let changed: Vec<_> =
        digests().iter().zip(&first).map(|(new, old)| new.digest != old.digest).collect();
    assert_eq!(changed, [false, false, true, false]);
}
