#!/bin/sh
# Lets several threads use the core at once, each with an arena of its own: under ThreadSanitizer,
# which sees what our code does, and under helgrind, which sees what libcjson does too.
#
#   sh tests/isolated/run_tsan.sh [ROUNDS]
set -eu
ROUNDS=${1:-1000}
cd "$(dirname "$0")"
BUILD=../../build/threads
CC=${CC:-clang}
PKG_CONFIG=${PKG_CONFIG:-pkg-config}
mkdir -p "$BUILD"

build() {
    # shellcheck disable=SC2046
    $CC -std=c11 -g -Wall -Wextra -Wconversion -Wshadow -Werror -D_POSIX_C_SOURCE=200809L "$@" \
        $($PKG_CONFIG --cflags libcjson) threads.c ../../csrc/core/*.c \
        $($PKG_CONFIG --libs libcjson) -pthread
}

build -O1 -fsanitize=thread -o "$BUILD/tsan"
build -O1 -gdwarf-4 -o "$BUILD/plain"

echo "ThreadSanitizer"
TSAN_OPTIONS=halt_on_error=1 "$BUILD/tsan" "$ROUNDS"
echo "helgrind"
valgrind --quiet --tool=helgrind --error-exitcode=1 --suppressions=cjson.supp \
    "$BUILD/plain" "$((ROUNDS / 50 + 1))"
