/* Records to rows: what names a row, what is tokenised, which step it belongs to. Between vp_records and vp_packer. */
#ifndef VP_TEXT_FEED_H
#define VP_TEXT_FEED_H
#include "lib/text/conversation.h"

typedef struct vp_feed_options { /* pointers are borrowed until vp_feed_close */
    vp_records *records;
    vp_packer *packer; /* opened with `steps` if batch > 0, with `blocks` if block > 0 */
    const vp_tokenizer *tokenizer;
    vp_prompt *prompt;       /* of texts, and of the positives and negatives of examples */
    const char *instruction; /* the prompt's own; NULL: "" */
    vp_prompt_options query; /* of the queries of examples */
    bool query_layout;       /* query.layout was asked for: else a space follows an instruction that a record brings */
    const char *id_from;     /* "auto", "line", "hash", or a field */
    bool chunks;             /* the prompt cuts texts into several rows */
    int64_t batch;           /* records, or blocks, of a step; 0: no steps */
    int64_t first;           /* number of the first step */
    int64_t steps;           /* number after the last one, >= first; 0: until the input ends */
    int64_t block;           /* tokens of a block of running text; 0: every text is a row */
    int64_t generative;      /* of a step's records the last ones, of which texts, too, are to be generated */
    bool drop_full;          /* examples go where what stands before a text leaves it no room */
    vp_conversation_options conversation;
    bool count_bad; /* bad records that are skipped have a place in their step */
} vp_feed_options;

typedef struct vp_feed_counts {
    int64_t rows, tokens, truncated, empty;
    int64_t left_out; /* records: examples without room, conversations without an answer */
    int64_t dropped;  /* tokens that fill no block, or no step */
} vp_feed_counts;

typedef struct vp_feed vp_feed;
int vp_feed_open(vp_feed **f, const vp_feed_options *o, vp_error *err);
/* The record that was read last becomes rows; a step is written with its last row. With blocks, the first `first` *
 * batch blocks are passed over, so that a run that goes on has the blocks of one that was never stopped. VP_DATA with
 * name:line: a text that is too long, no identifier, an example where there are no steps. */
int vp_feed_record(vp_feed *f, const vp_record *record, vp_error *err);
bool vp_feed_full(const vp_feed *f); /* all `steps` are written */
/* The end of the input: what is held back is written, or dropped if it fills no step. VP_DATA: fewer steps than were
 * asked for. */
int vp_feed_end(vp_feed *f, vp_error *err);
const vp_feed_counts *vp_feed_totals(const vp_feed *f); /* so far */
/* The counts of an end record: rows, tokens, truncated, skipped, empty, and with steps dropped. */
int vp_feed_count(const vp_feed *f, vp_map *end, vp_error *err);
void vp_feed_close(vp_feed *f);

#endif
