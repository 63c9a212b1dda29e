//! Bringing archives into containerd, by its own client `ctr`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Containerd, Error};
use crate::image::{self, Named};

/// containerd's namespace of what CRI sees.
const NAMESPACE: &str = "k8s.io";

/// What CRI marks the images with that it has taken notice of.
const MANAGED: &str = "io.cri-containerd.image=managed";

/// How long CRI may take to notice an imported image. It does so by an event, within milliseconds;
/// one that it has not noticed would be pulled.
const NOTICE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(20);

impl Containerd {
    /// Imports each archive of which an image is absent or another than the one there, and waits
    /// until CRI knows them. Returns the names of the images of the imported archives.
    ///
    /// # Errors
    /// What containerd said.
    pub async fn import(&self, archives: &[PathBuf]) -> Result<Vec<String>, Error> {
        let present = self.images().await?;
        let mut absent = Vec::new();
        let mut expected = Vec::new();
        for archive in archives {
            let names =
                image::named(archive).map_err(|error| Error::Archive(archive.clone(), error))?;
            if names.is_empty() || names.iter().any(|named| !is_present(named, &present)) {
                absent.push(archive);
                expected.extend(names.into_iter().map(|named| named.reference));
            }
        }
        let imports = absent.iter().map(|archive| self.import_one(archive));
        let names: Vec<String> = try_join_all(imports).await?.into_iter().flatten().collect();
        self.wait_for_notice(&expected).await?;
        Ok(names)
    }

    async fn import_one(&self, archive: &Path) -> Result<Vec<String>, Error> {
        let arguments = import_arguments(self.socket(), &archive.to_string_lossy());
        let output = Command::new("ctr").args(arguments).output().await.map_err(Error::Ctr)?;
        if output.status.success() {
            return Ok(imported_names(&String::from_utf8_lossy(&output.stdout)));
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Import { archive: archive.to_owned(), message })
    }

    async fn wait_for_notice(&self, names: &[String]) -> Result<(), Error> {
        let deadline = Instant::now() + NOTICE;
        while Instant::now() < deadline {
            let images = self.images().await?;
            if names.iter().all(|name| images.get(name).is_some_and(|image| image.managed)) {
                return Ok(());
            }
            sleep(POLL).await;
        }
        tracing::warn!(?names, "CRI takes no notice of imported images; pods may have to wait");
        Ok(())
    }

    async fn images(&self) -> Result<BTreeMap<String, Present>, Error> {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.socket()).args(["-n", NAMESPACE, "images", "ls"]);
        let output = command.output().await.map_err(Error::Ctr)?;
        Ok(parse_list(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// An image of containerd's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    digest: String,
    managed: bool,
}

/// `ctr images ls`: REF TYPE DIGEST SIZE PLATFORMS LABELS, where a size is two words.
fn parse_list(output: &str) -> BTreeMap<String, Present> {
    let image = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, digest) = (words.next()?, words.nth(1)?);
        let present = Present { digest: digest.to_owned(), managed: line.contains(MANAGED) };
        Some((name.to_owned(), present))
    };
    output.lines().skip(1).filter_map(image).collect()
}

fn is_present(named: &Named, present: &BTreeMap<String, Present>) -> bool {
    present
        .get(&named.reference)
        .is_some_and(|image| named.digest.as_ref().is_none_or(|digest| *digest == image.digest))
}

/// `ctr`'s arguments to import an archive (`-` for stdin) for CRI.
pub(crate) fn import_arguments(socket: &Path, archive: &str) -> [String; 7] {
    let socket = socket.to_string_lossy().into_owned();
    let fixed = |text: &str| text.to_owned();
    [
        fixed("-a"),
        socket,
        fixed("-n"),
        fixed(NAMESPACE),
        fixed("images"),
        fixed("import"),
        fixed(archive),
    ]
}

/// The images' names in what `ctr images import` prints (`unpacking NAME (DIGEST)...done`).
pub(crate) fn imported_names(output: &str) -> Vec<String> {
    let name = |line: &str| line.strip_prefix("unpacking ")?.split(' ').next().map(str::to_owned);
    output.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
REF                         TYPE                                       DIGEST       SIZE      PLATFORMS   LABELS
docker.io/bowline/pause:0.1 application/vnd.oci.image.manifest.v1+json sha256:aaaa  9.7 KiB   linux/amd64 io.cri-containerd.image=managed
docker.io/bowline/proxy:0.1 application/vnd.oci.image.manifest.v1+json sha256:bbbb  20.0 MiB  linux/amd64 -
";

    #[test]
    fn an_image_of_another_digest_is_not_the_one_wanted() {
        let present = parse_list(LIST);
        let named = |digest: Option<&str>| Named {
            reference: "docker.io/bowline/pause:0.1".to_owned(),
            digest: digest.map(str::to_owned),
        };
        assert!(is_present(&named(Some("sha256:aaaa")), &present));
        assert!(!is_present(&named(Some("sha256:cccc")), &present));
        assert!(is_present(&named(None), &present));
        assert!(present["docker.io/bowline/pause:0.1"].managed);
        assert!(!present["docker.io/bowline/proxy:0.1"].managed);
    }

    #[test]
    fn names_of_imported_images_are_found_among_the_rest() {
        let output = "unpacking docker.io/a/b:1 (sha256:0)...done\nsomething else\n";
        assert_eq!(imported_names(output), ["docker.io/a/b:1"]);
    }
}
