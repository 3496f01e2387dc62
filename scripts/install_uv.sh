#!/bin/sh
# Install uv, which sets up everything else, into an environment of its own.
# Argument: the folder of that environment. PYTHON names an interpreter; any that has venv will do.
set -eu
folder=$1
locked=$(dirname "$0")/uv-requirements.txt
python=${PYTHON:-python3}

cmp -s "$locked" "$folder/installed.txt" && exit 0
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "error: expected $python with venv; on Debian and Ubuntu it is in the package python3-venv" >&2
    exit 1
fi
"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --require-hashes -r "$locked"
cp "$locked" "$folder/installed.txt"
