#!/usr/bin/env bash
# Usage: examples/curl.sh page.png [model]
set -euo pipefail

page=$(realpath "$1") model=${2:-builtin}
coproc SERVER { exec ocr_mlx serve --port 0 --stdin-watch; }
read -r ready <&"${SERVER[0]}"
url=$(printf '%s' "$ready" | python3 -c 'import json, sys; print(json.load(sys.stdin)["url"])')

curl -sS --fail-with-body "$url/ocr" -H 'Content-Type: application/json' \
  -d "$(python3 -c 'import json, pathlib, sys; print(json.dumps({"filename": pathlib.Path(sys.argv[1]).as_uri(), "model": sys.argv[2]}))' "$page" "$model")"
echo
curl -sS -X POST "$url/shutdown" >&2
