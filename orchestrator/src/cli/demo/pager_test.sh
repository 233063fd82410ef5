#!/bin/sh
# Checks pager.sh on ten lines in pages of four.
failed=0
expect() {
  got=$(printf '1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n' | sh pager.sh "$1" 4 | tr '\n' ' ')
  if [ "$got" = "$2" ]; then
    echo "ok    page $1: $got"
  else
    echo "FAIL  page $1: expected \"$2\", got \"$got\""
    failed=1
  fi
}
expect 1 "1 2 3 4 "
expect 2 "5 6 7 8 "
expect 3 "9 10 "
exit $failed
