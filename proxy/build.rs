//! Builds the kernel programs, which the library embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let ebpf = manifest.join("../ebpf");
    for path in ["src", "abi/src", "abi/Cargo.toml", "Cargo.toml", "Cargo.lock", "build.sh"] {
        println!("cargo::rerun-if-changed={}", ebpf.join(path).display());
    }
    build(&ebpf, &out);
}

fn build(ebpf: &Path, out: &Path) {
    let script = ebpf.join("build.sh");
    let status = Command::new(&script).arg(out).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => fail("the kernel programs could not be built; the reason is above"),
        Err(error) => fail(&format!("{} could not be run: {error}", script.display())),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
