#!/bin/sh
# Make a virtual environment with exactly the packages that uv.lock names.
# Arguments: the folder of the environment, then options of `uv sync` (--extra lm, --group docs).
# PYTHON names an interpreter, otherwise uv finds one; TORCH_INDEX another index for PyTorch.
set -eu
cd "$(dirname "$0")/.."
venv=$1
shift

fail() {
    echo "error: $1" >&2
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
        || fail "expected Python 3.11 to 3.13 as $PYTHON; name another one with PYTHON=path/to/python3.12"
    export UV_PYTHON="$PYTHON"
fi

needed_gb=7
free_gb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
if [ ! -d "$venv" ] && [ "$free_gb" -lt "$needed_gb" ]; then
    fail "expected $needed_gb GB of free disk space for $venv, got $free_gb GB"
fi

sh scripts/install_uv.sh .build/uv
uv=.build/uv/bin/uv
export UV_PROJECT_ENVIRONMENT="$venv"
# Seven workers import the same packages at once when a server starts.
export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE:-1}"
unset VIRTUAL_ENV

# The project itself is not installed: archives carry it, and a copy here would hide what they lack.
set -- --locked --no-install-project --extra torchserve --extra gateway "$@"

# An environment keeps the index that its PyTorch came from, whatever is added to it later.
torch_index_file=$venv/torch-index
torch_index=${TORCH_INDEX:-$(cat "$torch_index_file" 2>/dev/null || true)}
if [ -z "$torch_index" ]; then
    exec "$uv" sync "$@"
fi

# PyTorch itself and its CUDA libraries; the builds of another index bring libraries of their own.
pytorch='^(torch|torchaudio|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
locked=$("$uv" export --quiet --locked --no-emit-project --no-hashes --no-annotate --no-header)
left_out=$(echo "$locked" | grep -oE "$pytorch" | sed 's/==$//; s/^/--no-install-package /')
# shellcheck disable=SC2086
"$uv" sync "$@" $left_out
# shellcheck disable=SC2046
"$uv" pip install --python "$venv/bin/python" --default-index "$torch_index" \
    $(echo "$locked" | grep -oE '^(torch|torchaudio)==[^ ]+')
echo "$torch_index" > "$torch_index_file"
