//! Compiles `deploy/pause/pause.c`, which `image::addons` embeds: a pod's first process is 9 KB and
//! needs no libc.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "../../deploy/pause/pause.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"])
        .args(["-fno-asynchronous-unwind-tables", "-Wall", "-Werror", "-Wl,--build-id=none", "-s"])
        .arg(SOURCE)
        .arg("-o")
        .arg(out.join("pause"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} could not compile {SOURCE}: {status}"),
        Err(error) => panic!(
            "could not run the C compiler {compiler}: {error}; install gcc (apt-get install gcc) or set CC"
        ),
    }
}
