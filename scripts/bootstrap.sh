#!/bin/sh
# Make a virtual environment with the locked packages. Arguments: the folder of the environment.
# PYTHON names the interpreter; TORCH_INDEX another package index for torch and torchaudio.
set -eu
venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
    echo "error: expected Python 3.11 or 3.12 as $python; name another one with PYTHON=path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "error: expected $python with venv; on Debian and Ubuntu it is in the package python3-venv" >&2
    exit 1
fi

needed_gb=7
free_gb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
if [ ! -d "$venv" ] && [ "$free_gb" -lt "$needed_gb" ]; then
    echo "error: expected $needed_gb GB of free disk space for $venv, got $free_gb GB" >&2
    exit 1
fi

# Packages that --index-url for PyTorch replaces: PyTorch itself and its CUDA libraries.
pytorch='^(torch|torchaudio|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='

echo "Setting up $venv (3 GB to download, some minutes) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
install="$venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar on"
if [ -z "${TORCH_INDEX:-}" ]; then
    $install --require-hashes -r requirements.lock
else
    # The builds of that index have other hashes, and other libraries beside them.
    awk -v pytorch="$pytorch" '/^[a-z]/ {keep = $0 !~ pytorch} keep' requirements.lock > "$venv/rest.lock"
    $install --require-hashes --no-deps -r "$venv/rest.lock"
    # shellcheck disable=SC2046
    $install --index-url "$TORCH_INDEX" $(grep -oE '^(torch|torchaudio)==[^ ]+' requirements.lock)
fi
