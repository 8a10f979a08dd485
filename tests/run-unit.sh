#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs unit test programs one after the other; each prints its own count. Exit 1 if one failed.
status=0
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
log=$(mktemp)
for t in "$@"; do
	if timeout 300 "$t" > "$log" 2>&1; then
		printf '%-48s %s\n' "${t#*/tests/unit/}" "$(grep -a '\[  PASSED  \]' "$log" | tail -n 1)"
	else
		echo "FAILED: $t (status $?)"
		cat "$log"
		status=1
	fi
done
rm -f "$log"
exit $status
