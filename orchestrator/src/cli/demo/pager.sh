#!/bin/sh
# Prints one page of the lines on standard input: pager.sh PAGE SIZE (pages count from 1).
page=$1
size=$2
first=$(((page - 1) * size + 1))
last=$((page * size - 1))
sed -n "${first},${last}p"
