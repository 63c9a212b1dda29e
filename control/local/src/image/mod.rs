//! OCI images without a registry: deterministic archives from plain files.
//!
//! An archive is an OCI image layout (image-spec `image-layout.md`) in a tar: one uncompressed layer,
//! every time stamp 0, every owner root. The same files give the same digests, so that an image
//! that is there already is known by its manifest's digest.

mod addons;
mod archive;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

pub use addons::addons;
pub(crate) use archive::{Named, named};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EPOCH: &str = "1970-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where distributions have busybox; the static one runs without any other file.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// An image in the making.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder { mode: u32 },
    Copy { source: PathBuf, mode: u32 },
    Bytes { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

impl Image {
    /// An empty image. A reference without a registry is completed as containerd does it
    /// (`bowline/proxy:0.1.0` is `docker.io/bowline/proxy:0.1.0`).
    #[must_use]
    pub fn new(reference: &str) -> Self {
        Self {
            reference: normalized(reference),
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: vec![PATH.to_owned()],
            user: None,
        }
    }

    /// An image with this machine's busybox, a link for each of its applets, and the files that a
    /// shell expects; it runs `sh`.
    ///
    /// # Errors
    /// When busybox is missing or needs shared libraries; the message says what to install.
    pub fn busybox(reference: &str) -> io::Result<Self> {
        let busybox =
            BUSYBOX.iter().map(Path::new).find(|path| path.exists()).ok_or_else(|| {
                let what = "no busybox at /bin/busybox: apt-get install busybox-static";
                io::Error::new(io::ErrorKind::NotFound, what)
            })?;
        if is_dynamic(busybox)? {
            return Err(io::Error::other(format!(
                "{} needs shared libraries, which the image has not: apt-get install busybox-static",
                busybox.display()
            )));
        }
        let applets = Command::new(busybox).arg("--list").output()?.stdout;
        let mut image = Self::new(reference).file(busybox, "/bin/busybox", 0o755);
        for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
            image = image.link(&format!("/bin/{applet}"), "/bin/busybox");
        }
        Ok(image
            .folder("/tmp", 0o1777)
            .folder("/root", 0o700)
            .folder("/var/www", 0o755)
            .bytes(
                "/etc/passwd",
                b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
                0o644,
            )
            .bytes("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
            .bytes("/etc/nsswitch.conf", b"hosts: files dns\n", 0o644)
            .command(&["sh"]))
    }

    /// A copy of a file, read when the image is written.
    #[must_use]
    pub fn file(self, source: impl Into<PathBuf>, destination: &str, mode: u32) -> Self {
        self.entry(destination, Entry::Copy { source: source.into(), mode })
    }

    /// A file of the given content.
    #[must_use]
    pub fn bytes(self, destination: &str, content: &[u8], mode: u32) -> Self {
        self.entry(destination, Entry::Bytes { content: content.to_vec(), mode })
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, destination: &str, target: &str) -> Self {
        self.entry(destination, Entry::Link { target: target.to_owned() })
    }

    /// A folder; the parents of any entry are made as they are needed, with mode 755.
    #[must_use]
    pub fn folder(self, destination: &str, mode: u32) -> Self {
        self.entry(destination, Entry::Folder { mode })
    }

    /// The program and its fixed arguments.
    #[must_use]
    pub fn entrypoint(mut self, command: &[&str]) -> Self {
        self.entrypoint = command.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// The arguments that a pod's `args` replace.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// `UID:GID` of the program; root if it is never set.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The full reference.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn entry(mut self, destination: &str, entry: Entry) -> Self {
        let path = destination.trim_matches('/').to_owned();
        let mut parent = Path::new(&path).parent();
        while let Some(folder) = parent.filter(|folder| !folder.as_os_str().is_empty()) {
            let folder_path = folder.to_string_lossy().into_owned();
            self.entries.entry(folder_path).or_insert(Entry::Folder { mode: 0o755 });
            parent = folder.parent();
        }
        self.entries.insert(path, entry);
        self
    }

    /// Files that are read when the image is written.
    fn sources(&self) -> impl Iterator<Item = &Path> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Copy { source, .. } => Some(source.as_path()),
            _ => None,
        })
    }

    /// Writes the archive, whole or not at all, and returns the digest of its manifest.
    ///
    /// # Errors
    /// Names the file that can't be read or written.
    pub fn write(&self, path: &Path) -> io::Result<String> {
        let (layer_path, new) = (beside(path, "layer"), beside(path, "new"));
        let written = self.write_layer(&layer_path).and_then(|(digest, size)| {
            let manifest = self.write_archive(&new, &layer_path, &digest, size)?;
            fs::rename(&new, path)?;
            Ok(manifest)
        });
        for file in [&layer_path, &new] {
            // The second is renamed away when all went well.
            let _ = fs::remove_file(file);
        }
        written
    }

    /// The layer has to be whole before its digest, which names it in the archive, is known.
    fn write_layer(&self, path: &Path) -> io::Result<(String, u64)> {
        let mut builder = Builder::new(Hashing::new(BufWriter::new(create(path)?)));
        for (name, entry) in &self.entries {
            append(&mut builder, name, entry)?;
        }
        let (mut file, digest, size) = builder.into_inner()?.finish();
        file.flush()?;
        Ok((digest, size))
    }

    fn write_archive(
        &self,
        path: &Path,
        layer: &Path,
        digest: &str,
        size: u64,
    ) -> io::Result<String> {
        let config = serde_json::to_vec(&json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": self.runtime_config(),
            "rootfs": { "type": "layers", "diff_ids": [digest] },
            "history": [{ "created": EPOCH, "created_by": "bowline" }],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [{ "mediaType": LAYER, "digest": digest, "size": size }],
        }))?;
        let mut described = descriptor(MANIFEST, &manifest);
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        described["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [described],
        }))?;
        // The index comes first: whoever wants to know what is inside need not read the rest.
        let mut builder = Builder::new(BufWriter::new(create(path)?));
        bytes(&mut builder, "index.json", &index)?;
        bytes(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for folder in ["blobs", "blobs/sha256"] {
            append(&mut builder, folder, &Entry::Folder { mode: 0o755 })?;
        }
        for blob in [&config, &manifest] {
            bytes(&mut builder, &blob_name(&sha256(blob)), blob)?;
        }
        let source = layer.to_owned();
        append(&mut builder, &blob_name(digest), &Entry::Copy { source, mode: 0o644 })?;
        builder.into_inner()?.flush()?;
        Ok(sha256(&manifest))
    }

    fn runtime_config(&self) -> serde_json::Value {
        let mut config = json!({ "Env": self.environment, "WorkingDir": "/" });
        if !self.entrypoint.is_empty() {
            config["Entrypoint"] = json!(self.entrypoint);
        }
        if !self.command.is_empty() {
            config["Cmd"] = json!(self.command);
        }
        if let Some(user) = &self.user {
            config["User"] = json!(user);
        }
        config
    }
}

/// `bowline/x` -> `docker.io/bowline/x:latest`, `x` -> `docker.io/library/x:latest`.
pub(crate) fn normalized(reference: &str) -> String {
    let (first, rest) = reference.split_once('/').unwrap_or(("", reference));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let mut full = match (is_registry, first) {
        (true, _) => reference.to_owned(),
        (false, "") => format!("docker.io/library/{reference}"),
        (false, _) => format!("docker.io/{reference}"),
    };
    if !rest.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

fn create(path: &Path) -> io::Result<File> {
    File::create(path).map_err(|error| about(path, error))
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    path.with_file_name(name)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": sha256(content), "size": content.len() })
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn sha256(content: &[u8]) -> String {
    digest_text(&Sha256::digest(content))
}

fn digest_text(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn bytes<W: Write>(builder: &mut Builder<W>, name: &str, content: &[u8]) -> io::Result<()> {
    append(builder, name, &Entry::Bytes { content: content.to_vec(), mode: 0o644 })
}

fn append<W: Write>(builder: &mut Builder<W>, name: &str, entry: &Entry) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    match entry {
        Entry::Folder { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            builder.append_data(&mut header, format!("{name}/"), io::empty())
        }
        Entry::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, name, target)
        }
        Entry::Bytes { content, mode } => {
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, name, content.as_slice())
        }
        Entry::Copy { source, mode } => {
            let file = File::open(source).map_err(|error| about(source, error))?;
            header.set_size(file.metadata()?.len());
            header.set_mode(*mode);
            builder.append_data(&mut header, name, BufReader::with_capacity(1 << 20, file))
        }
    }
}

/// Whether an ELF program asks for an interpreter (`PT_INTERP`), so for shared libraries.
fn is_dynamic(program: &Path) -> io::Result<bool> {
    const INTERPRETER: u32 = 3;
    let mut file = File::open(program).map_err(|error| about(program, error))?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let table = u64::from_le_bytes(header[32..40].try_into().map_err(io::Error::other)?);
    let (size, count) = (u16_at(54), u16_at(56));
    for number in 0..u64::from(count) {
        file.seek(io::SeekFrom::Start(table + number * u64::from(size)))?;
        let mut kind = [0; 4];
        file.read_exact(&mut kind)?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Passes on what is written and knows its digest and length at the end.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, digest_text(&self.hash.finalize()), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
