#!/bin/sh
# Builds the extension under AddressSanitizer and UBSan beside the normal one, and runs the tests
# that reach it.  Python itself never frees all of its memory, so leaks are hunted elsewhere
# (refleaks.py, and valgrind on the core).
set -eu
PYTHON=$(realpath -s "${PYTHON:-python3}")
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
TARGET=$ROOT/build/sanitized
FLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"

rm -rf "$TARGET"
CC=gcc CFLAGS="$FLAGS" LDFLAGS="-fsanitize=address,undefined" \
    "$PYTHON" -m pip install -q --no-deps --no-compile --target "$TARGET" "$ROOT"

cd "$ROOT/tests"
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    PYTHONMALLOC=malloc PYTHONPATH="$TARGET" \
    "$PYTHON" -c "
import sys, pytest, mobync
assert mobync.__file__.startswith('$TARGET'), mobync.__file__
sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_merge.py', 'test_form.py', 'test_apply.py',
    'test_apply_json.py', 'test_compaction.py', 'test_server_edits.py', 'test_threads.py',
    'test_paging.py', 'test_refusals.py', 'test_retries.py', 'test_extension_types.py',
    'test_awaitables.py', 'test_reentry.py']))
"
