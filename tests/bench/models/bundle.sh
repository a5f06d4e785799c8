#!/usr/bin/env bash
# Fetch into .bundle/ what the model benchmarks need on a machine without network: wheels for Python 3.12 on
# x86-64, to lie beside the PyTorch and transformers that are there. `offline.sh` installs them and runs.
set -euo pipefail
cd "$(dirname "$0")/../../.."

most_mb=60
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux2010 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done

rm -rf .bundle
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --dest .bundle --no-deps \
  --only-binary :all: --implementation cp --python-version 3.12 "${platforms[@]}" \
  --constraint deploy/constraints.txt --requirement tests/bench/models/bundle.txt

size_mb=$(du -sm .bundle | cut -f1)
echo ".bundle: $(ls .bundle | wc -l) wheels, $size_mb MB"
if [ "$size_mb" -gt "$most_mb" ]; then
  echo "more than $most_mb MB: see tests/bench/models/bundle.txt" >&2
  exit 1
fi
