#!/usr/bin/env bash
# Installs the build into a scratch folder and builds examples/hello against what pkg-config finds there, as a user would.
# usage: install_test.sh BUILD_DIR SOURCE_DIR CXX
set -euo pipefail
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$1" --prefix "$prefix" >/dev/null
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name tessera.pc)")
# shellcheck disable=SC2046
"$3" "$2/examples/hello/main.cc" -o "$prefix/hello" $(pkg-config --cflags --libs --define-variable=prefix="$prefix" tessera)
"$prefix/hello" "$2/models/glossary" | grep serendipity
"$prefix/bin/tessera" version
