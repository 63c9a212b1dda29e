#!/usr/bin/env bash
# Installs what building and running Bowline needs and is not here yet. Says what it does; does nothing
# when nothing is missing. Made for Debian 12; elsewhere it names what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo

command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs and run this again"

# The eBPF programs need `core` built for the bpf target. rustup's nightly with rust-src does it; so does
# Debian's own pair of rustc-web and rust-web-src.
nightly_ready() { rustup +nightly component list --installed 2>/dev/null | grep -q '^rust-src'; }
linker_ready() { command -v bpf-linker >/dev/null || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker" ]; }

need=()
has() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }
want() { local package; for package in "$@"; do has "$package" || need+=("$package"); done; }
# Programs may come from elsewhere (Docker's containerd.io, a cloud SDK's kubectl): the command counts.
want_command() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || need+=("$2"); }
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
  if ! nightly_ready; then want rustc-web rust-web-src cargo-web; fi
  if ! linker_ready; then want llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev g++; fi
  want_command kubectl kubernetes-client
  if [ ${#need[@]} -gt 0 ]; then
    say "installing Debian packages: ${need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
  fi
else
  for tool in gcc containerd runc kubectl; do
    command -v $tool >/dev/null || fail "$tool is missing: install it with your distribution's package manager"
  done
fi

if ! linker_ready; then
  say "building bpf-linker (once, about a minute)"
  RUSTFLAGS="-L native=/usr/lib/llvm-22/lib" LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 \
    cargo install --quiet bpf-linker --version 0.13.0 --no-default-features --features llvm-22
fi
