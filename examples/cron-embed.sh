#!/bin/bash
# Keeps an index up to date with a JSONL corpus; made for cron and systemd timers. Only new and changed texts are embedded.
# Silent when all is well, and when another run is still at work (status 0: that run does the work). Killed at any moment,
# the next run goes on where it stopped.
#
#   CORPUS    JSONL with id, text and optional title         [~/corpus.jsonl]
#   INDEX     the index, made on the first run               [~/corpus.idx]
#   VP_MODEL  the model, needed until something is in the index, which then knows it
set -uo pipefail

corpus=${CORPUS:-$HOME/corpus.jsonl}
index=${INDEX:-$HOME/corpus.idx}

PATH=$PATH:/usr/local/bin
command -v knn >/dev/null || eval "$(vp env)"

messages=$(mktemp) || exit 4
trap 'rm -f "$messages"' EXIT

knn missing "$index" <"$corpus" 2>"$messages" | tok -q --text | fwd -q | pool -q | knn add "$index" -q
status=("${PIPESTATUS[@]}")

[ "${status[0]}" -eq 7 ] && exit 0 # locked by another run
cat "$messages" >&2
# The first program that failed by itself; 6 and 141 (SIGPIPE) only say that a neighbour did.
for s in "${status[@]}"; do case $s in 0 | 6 | 141) ;; *) exit "$s" ;; esac done
for s in "${status[@]}"; do [ "$s" -eq 0 ] || exit "$s"; done
