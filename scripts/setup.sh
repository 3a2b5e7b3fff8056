#!/usr/bin/env bash
# Installs the Debian packages that are missing and configures the release build. Shared by demo.sh and test.sh.
#
# usage: scripts/setup.sh [build|test]     build: what a build needs (default); test: what scripts/test.sh needs too
# Without root or passwordless sudo it prints the packages to ask for and exits 1. Does nothing, at once, when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build pkg-config libfmt-dev libspdlog-dev nlohmann-json3-dev libsimdjson-dev libpcre2-dev
  libutf8proc-dev libcurl4-openssl-dev libssl-dev libhwy-dev libcli11-dev libedit-dev libgtest-dev libgmock-dev
  libboost-dev prometheus-cpp-dev libopenmpi-dev)
options=(-DTESSERA_WERROR=ON)
if [ "${1:-build}" = test ]; then
  packages+=(clang-format-14 python3 python3-venv openmpi-bin libbenchmark-dev)
  options+=(-DTESSERA_BENCH=ON)
fi

missing=()
if command -v dpkg-query >/dev/null; then
  installed=$({ dpkg-query -W -f '${Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true; } | sed -n 's/^install ok installed //p')
  for package in "${packages[@]}"; do
    grep -qx -- "$package" <<<"$installed" || missing+=("$package")
  done
else
  echo "setup: no dpkg here; these Debian 12 packages are taken to be installed in your system's way: ${packages[*]}" >&2
fi

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    root=()
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    root=(sudo -n)
  else
    echo "setup: missing packages, and no right to install them. Ask for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}" >&2
  apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0 "$@" >&2; }
  apt update
  apt install --yes --no-install-recommends "${missing[@]}"
fi

# Python packages that tests compare with. Without them those tests are skipped, and the rest runs.
if [ "${1:-build}" = test ]; then
  if ! cmp -s tests/requirements.txt build/python/requirements.txt; then
    rm -rf build/python
    if python3 -m venv build/python && build/python/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt >&2; then
      cp tests/requirements.txt build/python/
    else
      echo "setup: no Python packages (tests/requirements.txt): the tests that need them are skipped" >&2
      rm -rf build/python
    fi
  fi
  [ ! -d build/python ] || options+=(-DTESSERA_PYTHON="$PWD/build/python/bin/python3")
fi

# Warnings are errors here, where the compiler is known; a plain `cmake --preset release` leaves them warnings.
configured() {
  [ -f build/release/build.ninja ] || return
  local option
  for option in "${options[@]}"; do grep -qx "${option#-D}" <(sed 's/:[A-Z]*=/=/' build/release/CMakeCache.txt) || return; done
}
configured || cmake --preset release "${options[@]}" >&2
