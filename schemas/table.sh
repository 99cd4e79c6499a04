#!/bin/sh
# Prints the table of columns (columns.def) as the mdoc list that vecpipe(5) holds.
set -eu
cd "$(dirname "$0")"
echo '.Bl -tag -width Ds'
sed -n 's/^X("\(.*\)", "\(.*\)", "\(.*\)", "\(.*\)")$/\1\t\2\t\3\t\4/p' columns.def |
    awk -F '\t' '{
        gsub(/\|/, ", ", $2)
        gsub(/ /, ", ", $3)
        printf ".It Li %s Pq %s [%s]\n%s\n", $1, $2, $3, $4
    }'
echo '.It Li grad.NAME Pq F32, BF16, shaped as NAME'
echo 'gradient of the loss with respect to NAME'
echo '.El'
