#!/usr/bin/env bash
# Fetches what only the tests need into DIR (kept between runs): Debian's kernels for the guests, and
# Debian's kubectl 1.20 where the PATH holds another. Usage: tests/tools.sh DIR
set -euo pipefail
mkdir -p "$1" && cd "$1"
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# unpack PACKAGE FOLDER: a Debian package's files, without installing it.
unpack() {
  [ -e "$2/.whole" ] && return
  rm -rf "$2" && mkdir "$2"
  say "fetching $1"
  (cd "$2" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg -x ./*.deb . && rm ./*.deb)
  touch "$2/.whole"
}

newest() { apt-cache pkgnames "$1" | grep -E "^$1[0-9.+a-z-]*-cloud-amd64\$" | sort -V | tail -n 1; }
[ -e kernel-6.1/.whole ] && [ -e kernel-6.12/.whole ] && [ -e kubectl-1.20/.whole ] || $([ "$(id -u)" = 0 ] || echo sudo) apt-get -qq update
unpack "$(newest linux-image-6.1.)" kernel-6.1
unpack "$(newest linux-image-6.12.)" kernel-6.12
unpack kubernetes-client kubectl-1.20
