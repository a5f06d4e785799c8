#!/usr/bin/env bash
# Run the model benchmarks on a machine without network: Python 3.12 with PyTorch and transformers is there, and
# `make bench-bundle`, on one with network, has put the rest into .bundle/. Arguments are the benchmarks' own.
set -euo pipefail
cd "$(dirname "$0")/../../.."

python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
  --target "$site" .bundle/*.whl
PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" "$python" -m tests.bench.models "$@"
