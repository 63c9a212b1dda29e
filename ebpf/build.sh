#!/bin/sh
# Builds the kernel programs and leaves them as OUT/bowline-ebpf.
# Uses whichever is there: rustup's nightly with rust-src, or Debian's rustc-web with rust-web-src.
set -eu

out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
# Small copies are expanded in place: called for, they would be byte loops.
flags="-Clink-arg=--btf -Clink-arg=--disable-expand-memcpy-in-order -Cdebuginfo=2"

missing() {
    echo "ebpf/build.sh: $1" >&2
    echo "ebpf/build.sh: run \`make setup\`, which installs it" >&2
    exit 1
}

# bpf-linker may live where cargo installs to without that being on PATH.
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v bpf-linker >/dev/null || missing "bpf-linker is not installed"

# What the calling cargo set is meant for its own toolchain and target.
unset RUSTC RUSTDOC RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER \
    CARGO CARGO_BUILD_TARGET CARGO_MAKEFLAGS MAKEFLAGS RUSTUP_TOOLCHAIN CARGO_TARGET_DIR \
    CARGO_PROFILE_DEV_DEBUG CARGO_PROFILE_RELEASE_DEBUG

build() {
    cd "$here"
    CARGO_ENCODED_RUSTFLAGS="$(echo "$flags" | tr ' ' '\037')" "$@" build --quiet --release \
        -Z build-std=core --target bpfel-unknown-none --target-dir "$out/target"
    cp "$out/target/bpfel-unknown-none/release/bowline-ebpf" "$out/bowline-ebpf"
    strip_debug "$out/bowline-ebpf"
}

# The kernel wants the type information (BTF), and nobody the DWARF that it was made from: most of
# the object. It is embedded in every agent, so it goes where there is a tool for it.
strip_debug() {
    for tool in llvm-strip /usr/lib/llvm-*/bin/llvm-strip; do
        if command -v "$tool" >/dev/null && "$tool" --strip-debug "$1" 2>/dev/null; then
            return
        fi
    done
}

nightly=$(rustup run nightly rustc --print sysroot 2>/dev/null || true)
if [ -n "$nightly" ] && [ -d "$nightly/lib/rustlib/src/rust/library" ]; then
    build rustup run nightly cargo
elif [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] &&
    [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
    RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
    export RUSTC RUSTDOC RUSTC_BOOTSTRAP
    build /usr/bin/cargo
else
    missing "no toolchain with the standard library's source: neither rustup's nightly with \
rust-src nor Debian's rustc-web, cargo-web and rust-web-src"
fi
