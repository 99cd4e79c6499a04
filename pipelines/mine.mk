# Mines hard negatives: include this file in a Makefile and set, before that,
#
#   MINE_QUERIES  rows, JSONL with `query`, and `positive` or `pos_ids`                                      (needed)
#   MINE_MODEL    the teacher: a model folder or a .gguf file                                                (needed)
#   MINE_BM25     anything: the teacher is BM25 alone, of MINE_MODEL the tokenizer is read, and nothing more   (no)
#   MINE_CORPUS   texts to mine from, JSONL with `text` and perhaps `id`       (all positives and negatives of the rows)
#   MINE_OUT      where the triples go                                                           (mined/triples.jsonl)
#   MINE_DIR      what is kept between runs: the index, the queries' vectors, the parts                        (mined)
#   MINE_SHARDS   parts of the rows, mined side by side with make -j                                               (4)
#   MINE_OPTIONS  of mine-negs: rule, negatives, sampling                                              (its defaults)
#   MINE_KNOWN    rows whose positives are no negatives of an equal query; none: no file               (MINE_QUERIES)
#   MINE_TOK, MINE_QUERY_TOK, MINE_FWD, MINE_POOL   options of tok for all texts, for queries alone; of fwd; of pool.
#                 An E5 teacher's prefixes: MINE_TOK = --instruction "passage: ", MINE_QUERY_TOK = --instruction "query: "
#   MINE_TEACHERS names of several teachers, letters, digits and _: each gives its negatives, and the first the scores.
#                 For teacher t there may be MINE_MODEL_t, MINE_BM25_t, MINE_TOK_t, MINE_QUERY_TOK_t, MINE_FWD_t and
#                 MINE_POOL_t, also empty ones; those that are not set are the ones above                      (no)
#
# `make mine` makes MINE_OUT, `make mine-clean` removes MINE_DIR. What changed in content or settings is done again, and no
# more: of a corpus the new texts are embedded, another rule embeds nothing, another teacher lets the others be. Interrupted,
# run it again: the triples are those of a run that was left alone, whatever MINE_SHARDS and -j are.
MINE_DIR    ?= mined
MINE_OUT    ?= $(MINE_DIR)/triples.jsonl
MINE_SHARDS ?= 4
MINE_KNOWN  ?= $(MINE_QUERIES)

# To make, names of files are words.
mine_check  = $(if $(or $(word 2,$($1)),$(findstring ',$($1))),$(error $1: "$($1)" is not one file without blanks and quotes))
$(foreach name,MINE_QUERIES MINE_CORPUS MINE_KNOWN MINE_DIR MINE_OUT,$(call mine_check,$(name)))
$(foreach name,MINE_QUERIES MINE_DIR,$(if $($(name)),,$(error $(name) is not set)))
$(foreach name,$(MINE_TEACHERS),$(if $(shell expr '$(name)' : '\([A-Za-z0-9_]*\)$$'),,$(error MINE_TEACHERS: "$(name)" is no name)))
$(if $(filter-out $(words $(sort $(MINE_TEACHERS))),$(words $(MINE_TEACHERS))),$(error MINE_TEACHERS: one is there twice))
ifeq ($(filter-out 0,$(shell expr '$(MINE_SHARDS)' : '[1-9][0-9]\{0,2\}$$')),)
$(error MINE_SHARDS: "$(MINE_SHARDS)" is no number from 1 to 999)
endif

# The programs beside this file, built or installed, else those on PATH.
mine_here  := $(dir $(lastword $(MAKEFILE_LIST)))
mine_bin   := $(firstword $(wildcard $(mine_here)../build/bin/mine-negs $(mine_here)../../../libexec/vecpipe/mine-negs))
mine_path  := $(if $(mine_bin),$(dir $(realpath $(mine_bin))):)$(PATH)
mine_texts  = $(or $(MINE_CORPUS),$(MINE_DIR)/corpus.jsonl)
mine_parts  = $(shell seq -f %03g 1 $(MINE_SHARDS))
mine_known  = $(filter-out none,$(MINE_KNOWN))
# Of a teacher, whose name is empty where there is but one: a setting, where its files are, its programs.
mine_of     = $(if $(filter undefined,$(origin MINE_$1_$2)),$(MINE_$1),$(MINE_$1_$2))
mine_each   = $(if $(MINE_TEACHERS),$(foreach name,$(MINE_TEACHERS),$(call $1,$(name))),$(call $1,))
mine_place  = $(MINE_DIR)$(1:%=/%)
mine_tok    = tok -q -m '$(call mine_of,MODEL,$1)' --text $(call mine_of,TOK,$1)
mine_query  = $(mine_tok) --query $(call mine_of,QUERY_TOK,$1)
mine_embed  = $(if $(call mine_of,BM25,$1),,| fwd -q $(call mine_of,FWD,$1) | pool -q $(call mine_of,POOL,$1))
mine_source = $(if $(call mine_of,BM25,$1),bm25,dense)
mine_needs  = $(if $(call mine_of,MODEL,$1),,$(error MINE_MODEL$(1:%=_%) is not set))
$(call mine_each,mine_needs)
mine_comma := ,
mine_blank := $(subst ,, )
mine_rule   = --candidates $(subst $(mine_blank),$(mine_comma),$(strip $(call mine_each,mine_source))) $(MINE_OPTIONS)
# A file is there whole or not at all, also where an older run of make was killed and its programs go on; a stamp is
# written only when what it says is new.
mine_failed = || { status=$$?; rm -f '$@'.$$$$; exit $$status; }
mine_whole  = >'$@'.$$$$ && mv '$@'.$$$$ '$@' $(mine_failed)
mine_stamp  = >'$@'.$$$$ && if cmp -s '$@'.$$$$ '$@'; then rm '$@'.$$$$; else mv '$@'.$$$$ '$@'; fi $(mine_failed)

mine: $(MINE_OUT)
mine-clean:
	rm -rf '$(MINE_DIR)'
mine-force:
.PHONY: mine mine-clean mine-force
.PRECIOUS: $(MINE_DIR)/rows-%.jsonl $(MINE_DIR)/triples-%.jsonl

$(MINE_DIR)/%: export PATH := $(mine_path)
$(MINE_DIR):
	@mkdir -p '$@'

# What a file says, how negatives are chosen.
$(MINE_DIR)/rows.sum: $(MINE_QUERIES) mine-force | $(MINE_DIR)
	@sha256sum <'$<' $(mine_stamp)
$(MINE_DIR)/texts.sum: $(mine_texts) mine-force | $(MINE_DIR)
	@sha256sum <'$<' $(mine_stamp)
$(MINE_DIR)/rule.how: $(mine_known) mine-force | $(MINE_DIR)
	@{ printf '%s\n' "$(strip $(MINE_TEACHERS) $(mine_rule))"; cat $(mine_known) </dev/null | sha256sum; } $(mine_stamp)
$(MINE_DIR)/parts.how: mine-force | $(MINE_DIR)
	@echo '$(MINE_SHARDS)' $(mine_stamp)
$(MINE_DIR)/corpus.jsonl: $(MINE_DIR)/rows.sum
	mine-negs --texts '$(MINE_QUERIES)' $(mine_whole)

# Parts of the rows, each as it stood before unless its rows changed. The lines of control that pipelines/rows writes, first
# and last, are no rows.
$(MINE_DIR)/parts.ok: $(MINE_DIR)/rows.sum $(MINE_DIR)/parts.how
	@awk -v parts=$(MINE_SHARDS) -v to='$(MINE_DIR)/rows-' -v new=$$$$ 'index($$0, "{\"_vp\":") == 1 { control += NR == FNR; next } \
	    NR == FNR { rows++; next } \
	    control % 2 { print "mine.mk: $(MINE_QUERIES): what wrote it died: the last line is missing" >"/dev/stderr"; exit 6 } \
	    { printf "%s\n", $$0 >sprintf("%s%03d.%d", to, 1 + int(n++ * parts / rows), new) }' \
	    '$(MINE_QUERIES)' '$(MINE_QUERIES)' && \
	for part in $(mine_parts); do part='$(MINE_DIR)'/rows-$$part; new="$$part.$$$$"; [ -e "$$new" ] || : >"$$new"; \
	    if cmp -s "$$new" "$$part.jsonl"; then rm "$$new"; else mv "$$new" "$$part.jsonl"; fi || exit 4; done
	@touch '$@'
$(MINE_DIR)/rows-%.jsonl: $(MINE_DIR)/parts.ok ;

# Teacher $1 in folder $2: how it embeds texts and queries (the models' contents too); its index, of new and changed texts
# alone unless texts are embedded in another way; the parts' vectors.
define mine_teacher
$2/texts.how: mine-force | $2
	@$$(call mine_tok,$1) </dev/null $$(call mine_embed,$1) | peek | grep '^  encoder' $$(mine_stamp)
$2/queries.how: mine-force | $2
	@$$(call mine_query,$1) </dev/null $$(call mine_embed,$1) | peek | grep '^  encoder' $$(mine_stamp)
$2/corpus.ok: $(MINE_DIR)/texts.sum $2/texts.how
	@cmp -s '$2/texts.how' '$2/corpus.how' || { rm -rf '$2/corpus.idx' && cp '$2/texts.how' '$2/corpus.how'; }
	knn missing -q --wait --id-from hash --prune --prune-max 100 '$2/corpus.idx' <'$$(mine_texts)' | \
	    $$(call mine_tok,$1) $$(call mine_embed,$1) | knn add -q $$(if $$(call mine_of,BM25,$1),--bm25) '$2/corpus.idx'
	@touch '$$@'
$2/queries-%.vp: $(MINE_DIR)/rows-%.jsonl $2/queries.how
	$$(call mine_query,$1) <'$$<' $$(call mine_embed,$1) $$(mine_whole)
.PRECIOUS: $2/queries-%.vp
endef
mine_files  = $(eval $(call mine_teacher,$1,$(mine_place)))
mine_pair   = '$(mine_place)/corpus.idx' '$(mine_place)/queries-$*.vp'
mine_inputs = $(mine_place)/queries-%.vp $(mine_place)/corpus.ok
$(call mine_each,mine_files)
$(MINE_TEACHERS:%=$(MINE_DIR)/%):
	@mkdir -p '$@'

$(MINE_DIR)/triples-%.jsonl: $(call mine_each,mine_inputs) $(MINE_DIR)/rule.how
	mine-negs $(mine_rule) $(mine_known:%=--known '%') $(call mine_each,mine_pair) $(mine_whole)
$(MINE_OUT): $(mine_parts:%=$(MINE_DIR)/triples-%.jsonl)
	cat $^ $(mine_whole)
