# Hard negatives for the questions of questions.jsonl: make -j2 -f examples/mine.mk
here        := $(dir $(lastword $(MAKEFILE_LIST)))
VP_MODEL    ?= models/all-MiniLM-L6-v2
MINE_MODEL   = $(VP_MODEL)
MINE_QUERIES = $(here)questions.jsonl
MINE_CORPUS  = $(here)corpus.jsonl
MINE_OPTIONS = --negatives 3 --rule percent=0.95
MINE_SHARDS  = 2
MINE_OUT     = triples.jsonl
include $(here)../pipelines/mine.mk
