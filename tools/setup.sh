#!/usr/bin/env bash
# Create .venv in the repository's root and install the tested versions. Called by make. PYTHON sets the interpreter,
# VENV the folder, CONSTRAINTS the file of versions.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"
constraints="${CONSTRAINTS:-constraints.txt}"

fail() {
    printf '\nset-up: %s\n' "$*" >&2
    exit 1
}

# The versions in constraints.txt exist for Python 3.11 and later.
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13 (found: $(python3 --version 2>&1 || echo none)). Name one: make PYTHON=/path/to/python3.11"
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot create virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"
    echo "set-up: creating $venv with $("$python" --version); about 6 GB will be installed into it"
    "$python" -m venv --clear "$venv"
fi

# Some packages, such as sam2, are distributed as source only. Isolated builds would each download another copy of
# torch. With the pinned setuptools of the environment they need neither torch nor a compiler, provided that sam2's CUDA
# extension, which is unused, is not built.
export SAM2_BUILD_CUDA=0
pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --constraint "$constraints" "$@"; }
pip_install setuptools wheel
pip_install --no-build-isolation --requirement requirements.txt --requirement requirements-dev.txt

"$venv/bin/python" tools/ensure_mongod.py
