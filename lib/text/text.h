/* Public text API: records from JSONL or lines, tokenizers, prompts with spans, and packing into frames. */
#ifndef VP_TEXT_H
#define VP_TEXT_H
#include "lib/base/base.h"
#include "lib/stream/stream.h"

/* ---- records: one JSON object or one line of text each ---- */
/* Column `role`. */
typedef enum vp_role { VP_ROLE_QUERY, VP_ROLE_POSITIVE, VP_ROLE_NEGATIVE, VP_ROLE_GENERATIVE } vp_role;

/* A training example: a query, then its positives, then its negatives. `query` or `sentence1`; `positive`, `pos` or
 * `sentence2`; `negative` or `neg`: each a string or [instruction, text], the last two also lists of those; or
 * `positive_passages` and `negative_passages`, lists of {title, text}. `instruction` or `prompt` is the query's.
 * Scores, one for each positive and negative: `scores`; `pos_scores` and `neg_scores`; `score` where there is one text.
 * Or `input` with `output_summarize` (else the input again) and `output_predict`, which come as its positives. */
typedef struct vp_example_text {
    const char *text, *instruction; /* instruction NULL: none of its own */
    size_t text_len, instruction_len;
    uint8_t role;
    float score; /* 0 on queries, and where there are none */
} vp_example_text;
typedef struct vp_example {
    vp_example_text *text;
    size_t n;
    bool scored;
} vp_example;

/* One turn of a conversation; UTF-8, not terminated. */
typedef enum vp_speaker { VP_SPEAKER_SYSTEM, VP_SPEAKER_USER, VP_SPEAKER_ASSISTANT } vp_speaker;
typedef struct vp_turn {
    vp_speaker speaker;
    const char *text;
    size_t n;
} vp_turn;

/* Strings are UTF-8, not terminated; NULL: absent. */
typedef struct vp_record {
    const char *id, *title, *text;
    const char *meta; /* every other field (the title too; not id, _id, text) as compact JSON with sorted keys */
    size_t id_len, title_len, text_len, meta_len;
    const char *line; /* the input line itself, without its newline (what `knn missing` passes on) */
    size_t line_len;
    int64_t number;            /* line number, from 1 */
    const vp_example *example; /* VP_RECORDS_EXAMPLES: the record is one, and has no text; else NULL */
    const char *instruction;   /* VP_RECORDS_QUERIES: the query's own */
    size_t instruction_len;
    const uint32_t *word_end; /* VP_RECORDS_WORDS: where each word ends in the text */
    size_t words;
    const vp_turn *turn; /* VP_RECORDS_PROMPTS, EXAMPLES: a conversation, which has no text; NULL: a text */
    size_t turns;
    int wanted; /* EXAMPLES: a conversation's `label`, 1 or 0; -1: it has none */
} vp_record;

/* EXAMPLES: JSONL in which records may be training examples or conversations (`messages`, `text` a list, `prompt` with
 * `completion`) instead of texts. WORDS: JSONL whose text is its `words`,
 * an array of strings, joined by one space; `text` and `title` do not count. QUERIES: as EXAMPLES, but the text of an
 * example is its query, and `meta` the whole record. PROMPTS: JSONL whose text is its `prompt`, or a conversation,
 * `messages` or a list as `prompt`; meta keeps them and leaves out VP_PROMPT_ANSWER. */
#define VP_PROMPT_ANSWER "text", "tokens", "finish", "logprob", "logprobs" /* keys that an answer has */
typedef enum vp_record_format {
    VP_RECORDS_JSONL,
    VP_RECORDS_LINES,
    VP_RECORDS_OBJECTS, /* lines that the caller parses, without the _vp lines */
    VP_RECORDS_EXAMPLES,
    VP_RECORDS_WORDS,
    VP_RECORDS_QUERIES,
    VP_RECORDS_PROMPTS
} vp_record_format;
typedef struct vp_records vp_records;
/* `fd` is not closed. skip_bad: malformed JSON or UTF-8 is counted instead of failing with name:line. zstd input is
 * detected. A leading {"_vp":{"jsonl":1,...}} is available from vp_records_head after the first vp_records_next; if it
 * came, a missing {"_vp":{"end":true,"rows":n}} or a wrong n makes vp_records_next return VP_UPSTREAM. Lines are
 * bounded (64 MiB). Reads what is there and hands a line out as soon as it is complete: usable on slow pipes. */
int vp_records_open(vp_records **r, int fd, const char *name, vp_record_format format, bool skip_bad, vp_error *err);
/* *got = false at the end. The record is valid until the next call. A record without usable text: VP_DATA. A JSON
 * number as id keeps its spelling; `_id` counts when there is no `id`. */
int vp_records_next(vp_records *r, vp_record *record, bool *got, vp_error *err);
const vp_map *vp_records_head(const vp_records *r); /* the inside of _vp, or NULL */
/* The same without waiting: *got = false and *more = true where no whole record has come yet. */
int vp_records_next_here(vp_records *r, vp_record *record, bool *got, bool *more, vp_error *err);
/* Whether a whole line, the end or an error is there, or comes while no wait for input is longer than timeout_ms. The
 * record before is not valid any more. */
bool vp_records_ready(vp_records *r, int timeout_ms);
/* As vp_reader_watch: waiting for records ends when nobody reads `output` any more. */
void vp_records_watch(vp_records *r, int output);
int64_t vp_records_skipped(const vp_records *r);
/* A member of the current JSON record that is a string or a number (as it is spelled), valid like the record. Absent,
 * null, empty or another type: VP_DATA with name:line. */
int vp_records_field(const vp_records *r, const char *key, const char **s, size_t *n, vp_error *err);
const char *vp_records_name(const vp_records *r); /* for messages */
/* vp_fail of line `number`: "name:line: why", or "name:line: 'id': why" where the record has an id[n] (NULL: none). */
int vp_records_fail(const vp_records *r, int64_t number, const char *id, size_t n, int status, const char *why,
                    vp_error *err);
void vp_records_close(vp_records *r);
/* XXH3-128 of the length-prefixed title and text (absent = empty): column `hash`. */
int vp_record_hash(const vp_record *record, uint8_t out[16], vp_error *err);
/* title, a space, text (only the text when there is no title): what is embedded and what column `text` carries. */
int vp_record_text(const vp_record *record, vp_buf *out, vp_error *err);

/* ---- tokenizers ---- */
typedef struct vp_tokens {
    int32_t *id;
    uint32_t *start, *end; /* byte span in the text that was given; specials that are added have start = end */
    size_t n, cap;
} vp_tokens;
void vp_tokens_free(vp_tokens *t);

typedef struct vp_tokenizer vp_tokenizer;
/* From a model folder (tokenizer.json, with tokenizer_config.json), a tokenizer.json, or a .gguf: byte-level BPE,
 * WordPiece, SentencePiece's BPE. Anything in the file that is not supported is VP_DATA naming it, never skipped. */
int vp_tokenizer_open(vp_tokenizer **t, const char *path, vp_error *err);
void vp_tokenizer_close(vp_tokenizer *t);
/* Append the tokens of text to `out`. Special and added tokens in the text are recognised as in the reference. With
 * `specials` the tokenizer's own template (BOS, EOS, [CLS], [SEP]) is put around. Thread-safe on one tokenizer. */
int vp_tokenizer_encode(const vp_tokenizer *t, const char *text, size_t n, bool specials, vp_tokens *out,
                        vp_error *err);
int64_t vp_tokenizer_vocab(const vp_tokenizer *t);
const char *vp_tokenizer_fingerprint(const vp_tokenizer *t); /* 32 hex digits: part of encoder.space */
/* The id of the token with this text, -1: none. Searches the whole vocabulary. */
int32_t vp_tokenizer_find(const vp_tokenizer *t, const char *text, size_t n);
int32_t vp_tokenizer_mask(const vp_tokenizer *t); /* the token that stands for a hidden one, -1: none */
/* BOS, EOS and whatever else the file says is no text but a mark. */
bool vp_tokenizer_is_special(const vp_tokenizer *t, int32_t id);
enum { VP_EOS_BYTES = 64 };
/* The end of text as texts spell it; "" where `specials` puts one after them. False: there is none, or a longer one. */
bool vp_tokenizer_eos(const vp_tokenizer *t, char out[VP_EOS_BYTES]);
/* What begins and ends a text in formats that spell it out: "<s>" and "</s>" where the tokenizer has these, else its
 * own BOS and EOS; "": none. */
void vp_tokenizer_marks(const vp_tokenizer *t, char bos[VP_EOS_BYTES], char eos[VP_EOS_BYTES]);
/* What a text must begin with to have a BOS: its mark where `specials` puts no token before texts; "": nothing. */
void vp_tokenizer_begin(const vp_tokenizer *t, char bos[VP_EOS_BYTES]);
/* How many tokens `specials` puts before and after a text. */
void vp_tokenizer_specials(const vp_tokenizer *t, size_t *before, size_t *after);

/* Write the tokenizer of a .gguf file into `folder` as tokenizer.json and tokenizer_config.json, the same ids for the
 * same text. Only byte-level BPE ("gpt2") has an equal form: of the others nothing is written, and *written is false.
 */
int vp_tokenizer_export(const char *gguf, const char *folder, bool *written, vp_error *err);

/* Put n special tokens <s1>, <s2>, ... behind the vocabulary of the tokenizer.json in `folder`. VP_DATA: one is there
 * already. */
int vp_tokenizer_extend(const char *folder, int64_t n, vp_error *err);

/* ---- prompts: what is put around a text, what is pooled, what is cut ---- */
typedef enum vp_truncation { VP_TRUNCATE_RIGHT, VP_TRUNCATE_LEFT, VP_TRUNCATE_ERROR } vp_truncation;
#define VP_TRUNCATIONS "right|left|error" /* spellings, in that order */
const char *vp_truncation_name(vp_truncation t);
vp_truncation vp_truncation_named(const char *name); /* VP_TRUNCATE_RIGHT for NULL and for what is none */

typedef struct vp_prompt_options {
    const char *instruction; /* "" or NULL: none */
    const char *layout;      /* "{instruction}{text}" when NULL or ""; {text} once, {instruction} at most once */
    const char *before;      /* a chat's, before the layout; NULL: "" */
    const char *after;       /* and after it: texts lose the white space at their end, where it would follow them */
    const char *task[2];     /* before and after an instruction that is not empty; NULL: nothing */
    const char *bare; /* before a text without one; NULL: nothing. Then instructions lose "\t\n :" at their ends */
    bool specials;    /* the tokenizer's own around the whole */
    bool as_is;       /* texts keep their white space */
    bool pool_prompt; /* pool what stands before the text too */
    bool text_only;   /* else: do not pool the specials before the text, even without a prompt */
    int64_t max_len;  /* tokens of a row, specials included; 0: no limit */
    vp_truncation truncation;
    int64_t doc_max_len;                /* tokens of the text alone, to which it is cut at words first; 0: no limit */
    int64_t max_chars;                  /* characters of a text, cut before all else; 0: no limit */
    int64_t chunk, overlap;             /* 0: one row a text; else rows of at most `chunk` tokens of the text */
    const struct vp_slot_prompt *slots; /* what else stands around, cut from no row; its slots alone are pooled */
    int slot_side;                      /* vp_slot_side */
} vp_prompt_options;

typedef struct vp_prompt vp_prompt;
/* VP_USAGE: a layout that does not say where the text goes, or limits that leave no room for it. The tokenizer is
 * borrowed. */
int vp_prompt_open(vp_prompt **p, const vp_tokenizer *t, const vp_prompt_options *o, vp_error *err);
void vp_prompt_close(vp_prompt *p);
/* Another instruction from now on. An empty one takes along what stands between {instruction} and {text}, so that
 * "{instruction}; {text}" becomes "{text}". VP_USAGE: the layout has no place for it. */
int vp_prompt_instruct(vp_prompt *p, const char *instruction, size_t n, vp_error *err);
bool vp_prompt_has_task(const vp_prompt *p); /* it says by itself what stands around an instruction */
/* Whether `keep` can be other than 1 everywhere. */
bool vp_prompt_masks(const vp_prompt *p);
/* Tokenise one text within its prompt, once; *rows: 1, or the number of chunks. Too long with VP_TRUNCATE_ERROR:
 * VP_DATA. */
int vp_prompt_encode(vp_prompt *p, const char *text, size_t n, size_t *rows, vp_error *err);

#define VP_NO_TEXT UINT32_MAX
/* keep: 0 for what is not pooled: the prompt before the text and the specials before that, when there is such a prompt
 * (text_only: always). A token with a byte of the text belongs to the text, which is what doc_max_len left of it. */
typedef struct vp_prompt_row {
    const int32_t *ids;  /* n */
    const uint8_t *keep; /* n */
    size_t n;
    bool truncated;
    bool full;             /* what stands before the text fills the maximum length by itself */
    size_t from, to;       /* bytes of the text that the row's tokens stand for */
    const uint32_t *begin; /* n: the byte of the text at which a token begins; VP_NO_TEXT: it is none of the text's */
} vp_prompt_row;
/* Row k of the text that was encoded last, valid until the next call. */
int vp_prompt_row_at(vp_prompt *p, size_t k, vp_prompt_row *row, vp_error *err);

/* ---- gradient units: runs of whole rows, the parts in which weight gradients are added up ---- */
enum { VP_UNIT_TOKENS = 512 };
/* unit[b] of B rows with offsets cu [B+1]: rows are taken in order while their tokens are at most VP_UNIT_TOKENS; a
 * longer row is a unit of its own. Numbered from `first` on; the number after the last one is returned. */
int32_t vp_units_assign(const int32_t *cu, int64_t B, int32_t first, int32_t *unit);
/* ---- words ---- */
/* word[n]: the word that each token belongs to, by the places in the text where tokens begin, ascending, and where
 * words end; -1: none. A token that begins with the space before a word is that word's, one that spans two is the
 * first's. */
void vp_words_of_tokens(const uint32_t *begin, size_t n, const uint32_t *word_end, size_t words, int32_t *word);

/* ---- packing rows into frames ---- */
typedef struct vp_pack_options {
    int64_t batch_tokens;          /* tokens of a frame; a longer row (in steps: gradient unit) is a frame of its own */
    int64_t window;                /* rows among which those of like length are brought together */
    bool keep, text, meta, parent; /* columns to write; parent: with chunks */
    int64_t total;                 /* steps in all, which every frame says; 0: not known */
    bool steps;                    /* column unit; rows are held back until vp_packer_step */
    bool blocks;                   /* rows are parts of running text: no id, hash, text, meta, keep */
    bool word;
    bool prefix; /* column prefix: of rows that are not generated, what stands before the first pooled token */
} vp_pack_options;

enum { VP_NO_GROUP = -1 };
typedef struct vp_pack_row {
    const char *id, *text, *meta, *parent; /* NULL: nil; copied */
    size_t id_len, text_len, meta_len, parent_len;
    int64_t row;
    int32_t chunks; /* how many rows the record was cut into; 0: not cut */
    int32_t group;  /* example of the step, or VP_NO_GROUP: then role and score are not written */
    uint8_t role;
    bool scored; /* its example has scores */
    float score;
    uint8_t hash[16];
    const int32_t *ids;
    const uint8_t *keep; /* NULL: all 1 */
    const int32_t *word;
    size_t n;
} vp_pack_row;

typedef struct vp_packer vp_packer;
/* The writer is borrowed; its header is the caller's business (vp_packer_declare). */
int vp_packer_open(vp_packer **p, vp_writer *w, const vp_pack_options *o, vp_error *err);
int vp_packer_declare(const vp_pack_options *o, vp_map *header, vp_error *err);
/* Key `source` of every frame from now on (copied). */
int vp_packer_source(vp_packer *p, const vp_map *source, vp_error *err);
/* Writes frames when the window is full, but not in steps. */
int vp_packer_add(vp_packer *p, const vp_pack_row *row, vp_error *err);
/* Forget the last n rows that were added; in steps only. */
void vp_packer_undo(vp_packer *p, int64_t n);
/* Write what is held back: at the end, and when the input pauses. */
int vp_packer_flush(vp_packer *p, vp_error *err);
/* Write what is held back as training step `step`: frames of whole gradient units, with the keys step, rows and last;
 * an empty frame where there are no rows. VP_DATA: texts and examples in one step. */
int vp_packer_step(vp_packer *p, int64_t step, vp_error *err);
int64_t vp_packer_unscored(const vp_packer *p); /* steps whose scores were left out: some of their rows have none */
/* Forget what is held back; returns its tokens. */
int64_t vp_packer_drop(vp_packer *p);
bool vp_packer_holds(const vp_packer *p);
void vp_packer_close(vp_packer *p);

#endif
