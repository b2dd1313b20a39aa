#!/bin/sh
# Fuzzes the core: each libFuzzer target for SECONDS (default 60) under ASan and UBSan, from the
# small corpus beside this script.  What is found goes to build/fuzz/found, an input that breaks
# something to build/fuzz/TARGET.crash-*; then the exit code is not 0.
#
#   sh fuzz/run.sh [SECONDS [TARGET ...]]
#   sh fuzz/run.sh sample [TARGET ...]      a fixed number of inputs, the same in each run
#
# CC must be a clang with libFuzzer (Debian: clang libclang-rt-14-dev).
set -eu
AMOUNT=${1:-60}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")"
BUILD=../build/fuzz
CC=${CC:-clang}
FLAGS="-std=c11 -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wconversion -Wshadow -Werror
       -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DMB_LONG_WINDOW=1"
PKG_CONFIG=${PKG_CONFIG:-pkg-config}

FLAGS="$FLAGS $($PKG_CONFIG --cflags libcjson)"

if [ "$AMOUNT" = sample ]; then
    amount="-runs=20000 -seed=1"
    kept=sample
    rm -rf "$BUILD/sample"
else
    amount="-max_total_time=$AMOUNT"
    kept=found
fi

rm -rf "$BUILD/core"
mkdir -p "$BUILD/core"
for source in ../csrc/core/*.c; do
    # shellcheck disable=SC2086
    $CC $FLAGS -c "$source" -o "$BUILD/core/$(basename "$source" .c).o"
done

[ $# -gt 0 ] || set -- fuzz_*.c
failed=0
passed=0
for source; do
    target=${source%.c}
    mkdir -p "$BUILD/$kept/$target"
    # shellcheck disable=SC2086,SC2046
    $CC $FLAGS "$target.c" "$BUILD"/core/*.o $($PKG_CONFIG --libs libcjson) -o "$BUILD/$target.run"

    dictionary=
    case $target in fuzz_diffs | fuzz_json_data | fuzz_request) dictionary=-dict=json.dict ;; esac
    echo "---- $target, $amount"
    # shellcheck disable=SC2086
    if "$BUILD/$target.run" $amount -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 $dictionary \
        -artifact_prefix="$BUILD/$target." "$BUILD/$kept/$target" "corpus/$target" \
        >"$BUILD/$target.log" 2>&1; then
        passed=$((passed + 1))
        grep -E 'DONE|average_exec' "$BUILD/$target.log"
    else
        failed=$((failed + 1))
        tail -40 "$BUILD/$target.log" >&2
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
