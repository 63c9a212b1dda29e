#!/usr/bin/env bash
# Installs what building and running Bowline needs and is not here yet. Says what it does; does nothing
# when nothing is missing. Made for Debian 12; elsewhere it names what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo

command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs and run this again"

# A minimal rustup profile lacks what the tests check with.
for component in rustfmt clippy; do
  cargo "${component/rust/}" --version >/dev/null 2>&1 && continue
  command -v rustup >/dev/null || fail "cargo ${component/rust/} is missing: install your Rust's $component"
  say "adding $component to the Rust toolchain"
  rustup component add "$component"
done

# The eBPF programs need `core` built for the bpf target. rustup's nightly with rust-src does it; so does
# Debian's own pair of rustc-web and rust-web-src.
# (Answers are read whole: `| grep -q` ends at its first match, and with pipefail the other side's SIGPIPE is a no.)
nightly_ready() { [[ "$(rustup +nightly component list --installed 2>/dev/null)" == *rust-src* ]]; }
linker_ready() { command -v bpf-linker >/dev/null || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker" ]; }
has() { [ "$(dpkg-query -W -f '${Status}' "$1" 2>/dev/null)" = 'install ok installed' ]; }
offered() { [[ "$(apt-cache policy "$1" 2>/dev/null)" == *"Candidate: "[0-9]* ]]; }
need=()
want() { local package; for package in "$@"; do has "$package" || need+=("$package"); done; }
# Programs may come from elsewhere (Docker's containerd.io, a cloud SDK's kubectl): the command counts.
want_command() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || need+=("$2"); }

linker=0.13.0
# The LLVM versions that this bpf-linker can be built with; the compiler's own must not be newer.
llvms="22 23"
llvm=
choose_llvm() { for llvm in $llvms; do has "llvm-$llvm-dev" && return; done
  for llvm in $llvms; do offered "llvm-$llvm-dev" && return; done
  fail "no package llvm-N-dev for N in: $llvms. On Debian 12 it is in bookworm-security (is that in \
/etc/apt/sources.list?); elsewhere see https://apt.llvm.org, or install bpf-linker $linker yourself"; }
choose_toolchain() { nightly_ready && return
  offered rust-web-src || fail "this system has no package rust-web-src (Debian 12 has it): run \
'rustup toolchain install nightly --component rust-src' and this again"
  want rustc-web rust-web-src cargo-web; }

if command -v apt-get >/dev/null; then
  want libc6-dev busybox-static
  want_command gcc gcc
  want_command containerd containerd
  want_command runc runc
  # What the tests use: guests with other kernels, and a network toolbox.
  want cpio kmod xz-utils
  want_command qemu-system-x86_64 qemu-system-x86
  want_command curl curl
  want_command pkill procps
  want_command ip iproute2
  want_command iptables iptables
  want_command nft nftables
  want_command mkfs.ext4 e2fsprogs
  want_command systemctl systemd
  want_command kubectl kubernetes-client
  nightly_ready || has rust-web-src || toolchain=missing
  if [ ${#need[@]} -gt 0 ] || [ "${toolchain:-}" ] || ! linker_ready; then
    # Only then, since it takes a moment: what can be had is known after an update.
    $sudo apt-get update -qq
    choose_toolchain
    if ! linker_ready; then choose_llvm; want "llvm-$llvm-dev" "libpolly-$llvm-dev" libzstd-dev zlib1g-dev g++; fi
  fi
  if [ ${#need[@]} -gt 0 ]; then
    say "installing Debian packages: ${need[*]}"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
  fi
else
  for tool in gcc containerd runc kubectl bpf-linker; do
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin command -v $tool >/dev/null ||
      fail "$tool is missing: install it with your distribution's package manager (bpf-linker: cargo install bpf-linker)"
  done
  nightly_ready || fail "run 'rustup toolchain install nightly --component rust-src' and this again"
fi

if ! linker_ready; then
  say "building bpf-linker (once, about a minute)"
  # The prefix, or an older llvm-config on the PATH would be asked.
  LLVM_PREFIX=/usr/lib/llvm-$llvm cargo install --quiet bpf-linker --version "$linker" --locked \
    --no-default-features --features "llvm-$llvm"
fi
