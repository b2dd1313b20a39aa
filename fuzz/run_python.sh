#!/bin/sh
# Fuzzes the Python surface for SECONDS (default 60) with the extension under ASan and UBSan.
#
#   PYTHON=.venv/bin/python sh fuzz/run_python.sh [SECONDS [SEED]]
#
# PYTHON needs what mobync needs.  With atheris (installed if it can be) and clang, coverage of
# package and extension guides the inputs; without, they are random.  What is found stays in
# build/fuzz/python/, an input that breaks a promise in build/fuzz/python.*
set -eu
PYTHON=$(realpath -s "${PYTHON:-python3}")
ROOT=$(cd "$(dirname "$0")/.." && pwd)
BUILD=$ROOT/build/fuzz
SITE=$BUILD/site

"$PYTHON" -c 'import atheris' 2>/dev/null || "$PYTHON" -m pip install -q atheris ||
    echo "no atheris for this Python: random inputs" >&2

if "$PYTHON" -c 'import atheris' 2>/dev/null && command -v clang >/dev/null; then
    export CC=clang LDSHARED="clang -shared"
    sanitizers="-fsanitize=address,fuzzer-no-link,undefined -fsanitize-trap=undefined"
    link=
    preload=$("$PYTHON" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
else
    export CC=gcc
    sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=all"
    link="-fsanitize=address,undefined"
    preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
fi
# From a copy: a build directory that setuptools finds beside setup.py would be linked again.
rm -rf "$SITE" "$BUILD/source"
mkdir -p "$BUILD/source" "$BUILD/python"
cd "$ROOT"
cp -r csrc mobync setup.py pyproject.toml README.md LICENSE "$BUILD/source"
CFLAGS="-O1 -g -fno-omit-frame-pointer $sanitizers" LDFLAGS="$link" \
    "$PYTHON" -m pip install -q --no-deps --no-compile --target "$SITE" "$BUILD/source"

cd "$BUILD"
LD_PRELOAD=$preload PYTHONMALLOC=malloc PYTHONPATH=$SITE \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    "$PYTHON" "$ROOT/fuzz/python_surface.py" "$@"
echo "1 passed, 0 failed"
