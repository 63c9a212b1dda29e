//! hostPath: what must be there, and what is made.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{Error, io_error};

/// Checks or makes the path as its type asks for.
pub(super) fn ensure(source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        "FileOrCreate" if !path.exists() => {
            fs::File::create(&path).map_err(io_error("create", &path))?;
        }
        _ => {}
    }
    let kind = fs::metadata(&path).ok().map(|m| m.file_type());
    let is = |check: fn(&fs::FileType) -> bool| kind.as_ref().is_some_and(check);
    let fits = match wanted {
        "Directory" | "DirectoryOrCreate" => is(fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        _ => true,
    };
    if fits { Ok(path) } else { Err(Error::HostPath { path, wanted: wanted.to_owned() }) }
}
