#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs unit test programs, as many at once as there are processors; each prints its own count. Exit 1 if one failed.
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# shellcheck disable=SC2016
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 sh -c '
	log=$(mktemp)
	if timeout 300 "$1" > "$log" 2>&1; then
		printf "%-48s %s\n" "${1#*/tests/unit/}" "$(grep -a "\[  PASSED  \]" "$log" | tail -n 1)"
	else
		{ echo "FAILED: $1 (status $?)"; cat "$log"; } > "$log.all"
		cat "$log.all"
		rm -f "$log.all" "$log"
		exit 1
	fi
	rm -f "$log"' one
status=$?
[ $status = 0 ] || { echo "unit tests failed"; exit 1; }
