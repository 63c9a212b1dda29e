#!/usr/bin/env bash
# Every check, in the order of how fast each tells the truth. `make test` runs this and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

started=$SECONDS
say() { printf '\033[1m==> [%4ds] %s\033[0m\n' $((SECONDS - started)) "$*"; }

say "format"
cargo fmt --all --check

if [ "$(id -u)" != 0 ]; then
  say "the kernel and cluster tests need root: run 'sudo -E make test'"
  exit 1
fi

say "tools for the tests"
BOWLINE_TEST_TOOLS=$(realpath -m "${CARGO_TARGET_DIR:-target}/test-tools")
export BOWLINE_TEST_TOOLS
tests/tools.sh "$BOWLINE_TEST_TOOLS"
# Debian's kubectl 1.20 beside the one on the PATH, where that is another.
old=$BOWLINE_TEST_TOOLS/kubectl-1.20/usr/bin/kubectl
if ! cmp -s "$old" "$(readlink -f "$(command -v kubectl)")"; then export BOWLINE_TEST_KUBECTLS=$old; fi

say "clippy, warnings are errors"
cargo clippy --quiet --workspace --all-targets -- -D warnings

say "build"
cargo build --quiet --workspace --all-targets

# Whatever the tests did, no cluster of theirs stays.
bowline="${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/debug/bowline"
trap '"$bowline" local --cluster test down >/dev/null 2>&1' EXIT

say "tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace
else
  cargo test --workspace -- --test-threads 1
fi
say "all checks passed"
