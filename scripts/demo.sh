#!/usr/bin/env bash
# Asks the model that comes with the source, or opens a conversation with it.
#
# usage: scripts/demo.sh ["What does serendipity mean?"]
# Installs what is missing and builds first; later runs start at once.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/setup.sh" build
if [ "$(ninja -C "$top/build/release" -n tessera_cli | tail -n 1)" != "ninja: no work to do." ]; then
  echo "demo: building; the first time takes some minutes" >&2
  ninja -C "$top/build/release" tessera_cli >&2
fi
exec "$top/build/release/tessera" chat "$top/models/glossary" --greedy -- "$@"
