#!/bin/bash
# ask.sh INDEX QUESTION [OPTION of knn search]...: the best hits as a table.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: ask.sh INDEX QUESTION [OPTION of knn search]..." >&2
    exit 2
fi
index=$1 question=$2
shift 2
command -v knn >/dev/null || eval "$(vp env)"

export VP_MODEL=$index
printf '%s\n' "$question" | tok -q --text --lines --query | fwd -q | pool -q | knn search "$index" --table "$@"
