#!/bin/sh
# Download what `make gpu` needs, as wheels for a machine without a network that has PyTorch of its own.
# Arguments: their folder; then, if it is known, a file with what is there, as `pip freeze` prints it.
# WHEELS_PYTHON is the version of the interpreter there, such as 3.12.
set -eu
cd "$(dirname "$0")/../.."
folder=$1
have=${2:-/dev/null}
mkdir -p "$folder"
uv=.build/uv/bin/uv

# PyTorch, and CUDA's libraries, are those that fit the machine's driver.
pytorch='torch|torchaudio|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*'
there=$(sed -nE 's/^([A-Za-z0-9._-]+).*/\1/p' "$have" | tr 'A-Z_.' 'a-z--' | paste -sd '|' -)
needed=$("$uv" export --quiet --frozen --no-hashes --no-annotate --no-header --no-emit-project \
    --no-dev --extra torchserve --extra gateway)
tests=$("$uv" export --quiet --frozen --no-hashes --no-annotate --no-header --only-group dev \
    | grep -E '^(execnet|hypothesis|iniconfig|jiter|jsonschema|jsonschema-specifications|openai|pluggy|pytest|pytest-xdist|referencing|rpds-py|sniffio|sortedcontainers|trustme)==')
# What differs from one release of Python to another is settled for the one there.
printf '%s\n%s\n' "$needed" "$tests" \
    | grep -vE "^($pytorch${there:+|$there})[= ]" | sort -u \
    | "$uv" pip compile --quiet --no-deps --no-header --no-annotate \
        ${WHEELS_PYTHON:+--python-version "$WHEELS_PYTHON"} - > "$folder/wheels.txt"
# pip, rather than uv, as the latter downloads nothing that it does not install.
"$uv" tool run --quiet pip download --quiet --quiet --no-deps --only-binary :all: \
    ${WHEELS_PYTHON:+--python-version "$WHEELS_PYTHON"} --dest "$folder" --requirement "$folder/wheels.txt"
du -sh "$folder"
