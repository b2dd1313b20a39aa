#!/bin/sh
# Hunts references that stay, on a debug build of Python: that one counts every reference, and checks
# with assertions of its own what the extension hands it.  Runs all paths, then every failure of an
# allocation.
#
#   PYTHON=.venv/bin/python sh tests/isolated/run_refcounts.sh
#
# PYTHON has pip.  DEBUG_PYTHON is a debug build with its headers; Debian's is installed if there is
# none.
set -eu
PYTHON=$(realpath -s "${PYTHON:-python3}")
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
TARGET=$ROOT/build/refcounts

[ -n "${DEBUG_PYTHON:-}" ] || sh "$ROOT/.ci/packages" python3-dbg gcc pkg-config libcjson-dev
DEBUG_PYTHON=$(command -v "${DEBUG_PYTHON:-python3-dbg}")
"$DEBUG_PYTHON" -c 'import sys; sys.gettotalrefcount()'

# From a copy: a build directory that setuptools finds beside setup.py would be linked again.
rm -rf "$TARGET"
mkdir -p "$TARGET/source"
cd "$ROOT"
cp -r csrc mobync setup.py pyproject.toml README.md LICENSE "$TARGET/source"
PIP_ROOT_USER_ACTION=ignore "$PYTHON" -m pip --python "$DEBUG_PYTHON" install -q --no-deps --no-compile \
    --target "$TARGET/site" "$TARGET/source"

cd "$ROOT/tests/isolated"
export PYTHONPATH="$TARGET/site" PYTHONDONTWRITEBYTECODE=1
"$DEBUG_PYTHON" -c "import mobync; assert mobync.__file__.startswith('$TARGET'), mobync.__file__"
for script in refleaks.py out_of_memory.py apply_out_of_memory.py; do
    echo "---- $script"
    "$DEBUG_PYTHON" "$script"
done
