/* Records to rows: texts, chunks, examples and blocks of running text; steps are counted here and formed by the packer.
 */
#include "lib/text/feed.h"
#include "lib/text/blocks.h"
#include <stdlib.h>
#include <string.h>

struct vp_feed {
    vp_feed_options o;
    vp_prompt *query; /* opened by the first example */
    vp_conversation conversation;
    vp_blocks blocks;                   /* n = 0: texts are rows */
    vp_buf text, id, instruction, word; /* of the current record */
    bool instructed;                    /* o.prompt has a record's own instruction */
    int64_t records;                    /* that became rows */
    int64_t step, in_step;              /* the step being filled; its rows of the stream, or blocks */
    int64_t skip;                       /* blocks to pass over */
    int32_t groups;                     /* examples of the step */
    int64_t row;                        /* of the next row, within the step if there are any */
    int64_t with_id, without_id;        /* lines where the first of each kind came */
    vp_feed_counts counts;
};

int vp_feed_open(vp_feed **out, const vp_feed_options *o, vp_error *err) {
    int64_t skip = 0;
    if (o->block && __builtin_mul_overflow(o->first, o->batch, &skip))
        return vp_fail(err, VP_USAGE, "step %lld of %lld blocks is beyond all counting", (long long)o->first,
                       (long long)o->batch);
    vp_feed *f = vp_calloc(1, sizeof *f);
    if (!f) return vp_fail_memory(err, "a feed", sizeof *f);
    f->o = *o;
    f->blocks.n = o->block;
    f->step = o->first;
    f->skip = skip;
    *out = f;
    return VP_OK;
}

void vp_feed_close(vp_feed *f) {
    if (!f) return;
    vp_prompt_close(f->query);
    vp_blocks_free(&f->blocks);
    vp_conversation_free(&f->conversation);
    vp_buf_free(&f->text);
    vp_buf_free(&f->id);
    vp_buf_free(&f->instruction);
    vp_buf_free(&f->word);
    free(f);
}

const vp_feed_counts *vp_feed_totals(const vp_feed *f) {
    return &f->counts;
}

bool vp_feed_full(const vp_feed *f) {
    return f->o.steps && f->step >= f->o.steps;
}

/* ---- steps ---- */
static int end_step(vp_feed *f, vp_error *err) {
    VP_TRY(vp_packer_step(f->o.packer, f->step, err));
    f->step++;
    f->in_step = 0;
    f->groups = 0;
    f->row = 0;
    return VP_OK;
}

/* Rows of the stream up to the current one, which count towards steps even if they were bad and skipped. */
static int64_t ordinal(const vp_feed *f) {
    return f->records + (f->o.count_bad ? vp_records_skipped(f->o.records) : 0);
}

/* End the steps that rows of the stream before the next one have filled. */
static int end_steps(vp_feed *f, vp_error *err) {
    while (f->o.batch && !f->o.block && !vp_feed_full(f) && ordinal(f) / f->o.batch > f->step - f->o.first)
        VP_TRY(end_step(f, err));
    return VP_OK;
}

/* ---- names ---- */
static int set_id(vp_feed *f, const char *id, size_t n, vp_error *err) {
    f->id.len = 0;
    return vp_buf_add(&f->id, id, n, err);
}

static int set_number(vp_feed *f, vp_error *err) {
    f->id.len = 0;
    return vp_buf_printf(&f->id, err, "%lld", (long long)(f->records + vp_records_skipped(f->o.records)));
}

static int name_record(vp_feed *f, const vp_record *r, const uint8_t hash[16], vp_error *err) {
    const char *field;
    size_t n;
    char hex[33];
    if (strcmp(f->o.id_from, "line") == 0) return set_number(f, err);
    if (strcmp(f->o.id_from, "hash") == 0) {
        vp_hex(hex, hash, 16);
        return set_id(f, hex, 32, err);
    }
    if (strcmp(f->o.id_from, "auto") != 0) {
        VP_TRY(vp_records_field(f->o.records, f->o.id_from, &field, &n, err));
        return set_id(f, field, n, err);
    }
    int64_t *kind = r->id ? &f->with_id : &f->without_id;
    if (!*kind) *kind = r->number;
    if (f->with_id && f->without_id && !f->o.batch)
        return vp_fail(err, VP_DATA, "%s:%lld: %s identifier, unlike line %lld", vp_records_name(f->o.records),
                       (long long)r->number, r->id ? "an" : "no", (long long)(r->id ? f->without_id : f->with_id));
    return r->id ? set_id(f, r->id, r->id_len, err) : set_number(f, err);
}

/* ---- texts ---- */
static int encode(vp_feed *f, const vp_record *r, vp_prompt *p, const char *text, size_t n, size_t *rows,
                  vp_error *err) {
    vp_error why = {0};
    const int status = vp_prompt_encode(p, text, n, rows, &why);
    return status ? vp_fail(err, status, "%s:%lld: %s", vp_records_name(f->o.records), (long long)r->number, why.text)
                  : VP_OK;
}

static int add_row(vp_feed *f, vp_pack_row *row, const vp_prompt_row *tokens, vp_error *err) {
    row->id = f->id.data;
    row->id_len = f->id.len;
    row->row = f->row++;
    row->ids = tokens->ids;
    row->keep = tokens->keep;
    row->n = tokens->n;
    f->counts.rows++;
    f->counts.tokens += (int64_t)tokens->n;
    f->counts.truncated += tokens->truncated;
    f->counts.empty += tokens->n == 0;
    return vp_packer_add(f->o.packer, row, err);
}

/* Row k of the record's `rows`; parent_len bytes of f->id are the record's identifier. */
static int add_text_row(vp_feed *f, const vp_record *r, const uint8_t hash[16], size_t k, size_t rows,
                        size_t parent_len, vp_error *err) {
    vp_prompt_row tokens;
    VP_TRY(vp_prompt_row_at(f->o.prompt, k, &tokens, err));
    f->id.len = parent_len;
    if (f->o.chunks) VP_TRY(vp_buf_printf(&f->id, err, "#%zu", k));
    const size_t from = f->o.chunks ? tokens.from : 0, to = f->o.chunks ? tokens.to : f->text.len;
    vp_pack_row row = {.text = f->text.data + from,
                       .text_len = to - from,
                       .meta = r->meta,
                       .meta_len = r->meta_len,
                       .parent = f->id.data,
                       .parent_len = parent_len,
                       .chunks = f->o.chunks ? (int32_t)rows : 0,
                       .group = VP_NO_GROUP};
    memcpy(row.hash, hash, sizeof row.hash);
    if (r->word_end) {
        VP_TRY(vp_buf_reserve(&f->word, (tokens.n + 1) * sizeof(int32_t), err));
        vp_words_of_tokens(tokens.begin, tokens.n, r->word_end, r->words, (int32_t *)(void *)f->word.data);
        row.word = (const int32_t *)(const void *)f->word.data;
    }
    return add_row(f, &row, &tokens, err);
}

/* The prompt with an instruction that a record brings: after a query's stands a space, unless a layout says what. */
static int bring_instruction(vp_feed *f, vp_prompt *p, const char *s, size_t n, bool is_query, vp_error *err) {
    f->instruction.len = 0;
    VP_TRY(vp_buf_add(&f->instruction, s, n, err));
    if (n && is_query && !f->o.query_layout && !vp_prompt_has_task(p)) VP_TRY(vp_buf_add(&f->instruction, " ", 1, err));
    return vp_prompt_instruct(p, f->instruction.data, f->instruction.len, err);
}

static int own_instruction(vp_prompt *p, const char *own, vp_error *err) {
    return vp_prompt_instruct(p, own ? own : "", own ? strlen(own) : 0, err);
}

/* Of queries that bring their instruction, or follow one that did. */
static int instruct_text(vp_feed *f, const vp_record *r, vp_error *err) {
    if (r->instruction)
        VP_TRY(bring_instruction(f, f->o.prompt, r->instruction, r->instruction_len, true, err));
    else if (f->instructed)
        VP_TRY(own_instruction(f->o.prompt, f->o.instruction, err));
    f->instructed = r->instruction != NULL;
    return VP_OK;
}

static int take_text(vp_feed *f, const vp_record *r, vp_error *err) {
    uint8_t hash[16];
    size_t rows;
    VP_TRY(vp_record_hash(r, hash, err));
    VP_TRY(name_record(f, r, hash, err));
    VP_TRY(instruct_text(f, r, err));
    f->text.len = 0;
    VP_TRY(vp_buf_reserve(&f->text, 1, err)); /* an empty text has an address, too */
    VP_TRY(vp_record_text(r, &f->text, err));
    VP_TRY(encode(f, r, f->o.prompt, f->text.data, f->text.len, &rows, err));
    const size_t parent_len = f->id.len;
    for (size_t k = 0; k < rows; k++) VP_TRY(add_text_row(f, r, hash, k, rows, parent_len, err));
    return VP_OK;
}

/* ---- examples ---- */
/* The prompt of one text of an example, with the instruction that the record brings or the prompt's own. */
static int instruct(vp_feed *f, const vp_example_text *t, vp_prompt **prompt, vp_error *err) {
    const bool is_query = t->role == VP_ROLE_QUERY;
    const char *own = is_query ? f->o.query.instruction : f->o.instruction;
    if (is_query && !f->query) VP_TRY(vp_prompt_open(&f->query, f->o.tokenizer, &f->o.query, err));
    *prompt = is_query ? f->query : f->o.prompt;
    if (!t->instruction) return own_instruction(*prompt, own, err);
    return bring_instruction(f, *prompt, t->instruction, t->instruction_len, is_query, err);
}

/* Text k of the example; the query has the record's identifier, the others ID#1, ID#2, ... */
static int add_example_row(vp_feed *f, const vp_record *r, size_t k, size_t parent_len, bool *full, vp_error *err) {
    const vp_example_text *t = &r->example->text[k];
    const vp_record as_text = {.text = t->text, .text_len = t->text_len};
    vp_pack_row row = {.text = t->text,
                       .text_len = t->text_len,
                       .group = f->groups,
                       .role = t->role,
                       .scored = r->example->scored,
                       .score = t->score};
    vp_prompt *prompt;
    vp_prompt_row tokens;
    size_t rows;
    VP_TRY(vp_record_hash(&as_text, row.hash, err));
    if (k == 0) VP_TRY(name_record(f, r, row.hash, err));
    if (k > 0) {
        f->id.len = parent_len;
        VP_TRY(vp_buf_printf(&f->id, err, "#%zu", k));
    }
    VP_TRY(instruct(f, t, &prompt, err));
    VP_TRY(encode(f, r, prompt, t->text, t->text_len, &rows, err));
    VP_TRY(vp_prompt_row_at(prompt, 0, &tokens, err));
    *full = f->o.drop_full && tokens.full;
    return *full ? VP_OK : add_row(f, &row, &tokens, err);
}

/* What the record has added goes again. */
static void leave_out(vp_feed *f, const vp_feed_counts *before, int64_t row) {
    vp_packer_undo(f->o.packer, f->row - row);
    f->counts = *before;
    f->counts.left_out++;
    f->row = row;
}

static int take_example(vp_feed *f, const vp_record *r, vp_error *err) {
    if (f->o.chunks || f->o.block || !f->o.batch)
        return vp_fail(err, VP_DATA,
                       "%s:%lld: a query with its positives is for training steps of texts: --batch, or "
                       "mix before it, and neither --chunk nor --pack; --query takes the query alone",
                       vp_records_name(f->o.records), (long long)r->number);
    const vp_feed_counts before = f->counts;
    const int64_t row = f->row;
    bool full;
    VP_TRY(add_example_row(f, r, 0, 0, &full, err));
    const size_t parent_len = f->id.len;
    for (size_t k = 1; !full && k < r->example->n; k++) VP_TRY(add_example_row(f, r, k, parent_len, &full, err));
    if (full) leave_out(f, &before, row);
    f->groups++;
    return VP_OK;
}

/* ---- texts to be generated ---- */
/* A conversation, or a text where mix has put those that are to be generated: behind the step's other records. */
static bool is_generative(const vp_feed *f, const vp_record *r) {
    if (r->turn || r->example || !f->o.generative) return r->turn != NULL;
    return ordinal(f) % f->o.batch >= f->o.batch - f->o.generative;
}

static int take_conversation(vp_feed *f, const vp_record *r, vp_error *err) {
    vp_conversation *c = &f->conversation;
    vp_error why = {0};
    if (f->o.chunks || f->o.block || !f->o.batch)
        return vp_fail(err, VP_DATA,
                       "%s:%lld: a conversation is for training steps: --batch, or mix before it, and neither --chunk "
                       "nor --pack",
                       vp_records_name(f->o.records), (long long)r->number);
    const int status = vp_conversation_make(c, &f->o.conversation, r, &why);
    if (status)
        return vp_fail(err, status, "%s:%lld: %s", vp_records_name(f->o.records), (long long)r->number, why.text);
    f->counts.left_out += !c->targets;
    if (!c->targets) return VP_OK;
    const vp_record as_text = {.text = c->text.data, .text_len = c->text.len};
    vp_pack_row row = {.text = c->text.data,
                       .text_len = c->text.len,
                       .group = f->groups++,
                       .role = VP_ROLE_GENERATIVE,
                       .scored = r->wanted >= 0,
                       .score = r->wanted > 0};
    const vp_prompt_row tokens = {
        .ids = c->tokens.id, .keep = (const uint8_t *)c->keep.data, .n = c->tokens.n, .truncated = c->truncated};
    VP_TRY(vp_record_hash(&as_text, row.hash, err));
    VP_TRY(name_record(f, r, row.hash, err));
    return add_row(f, &row, &tokens, err);
}

/* ---- blocks ---- */
static int add_block(vp_feed *f, const int32_t *ids, vp_error *err) {
    const vp_pack_row row = {.row = f->row++, .group = VP_NO_GROUP, .ids = ids, .n = (size_t)f->o.block};
    f->counts.rows++;
    f->counts.tokens += f->o.block;
    VP_TRY(vp_packer_add(f->o.packer, &row, err));
    return ++f->in_step == f->o.batch ? end_step(f, err) : VP_OK;
}

static int take_running_text(vp_feed *f, const vp_record *r, vp_error *err) {
    size_t rows;
    vp_prompt_row tokens;
    f->text.len = 0;
    VP_TRY(vp_buf_reserve(&f->text, 1, err));
    VP_TRY(vp_record_text(r, &f->text, err));
    VP_TRY(encode(f, r, f->o.prompt, f->text.data, f->text.len, &rows, err));
    VP_TRY(vp_prompt_row_at(f->o.prompt, 0, &tokens, err));
    VP_TRY(vp_blocks_add(&f->blocks, tokens.ids, tokens.n, err));
    for (const int32_t *ids; !vp_feed_full(f) && (ids = vp_blocks_next(&f->blocks));)
        if (f->skip)
            f->skip--;
        else
            VP_TRY(add_block(f, ids, err));
    return VP_OK;
}

/* ---- the whole ---- */
int vp_feed_record(vp_feed *f, const vp_record *r, vp_error *err) {
    VP_TRY(end_steps(f, err)); /* which bad records filled */
    if (vp_feed_full(f)) return VP_OK;
    if (is_generative(f, r))
        VP_TRY(take_conversation(f, r, err));
    else if (r->example)
        VP_TRY(take_example(f, r, err));
    else if (f->o.block)
        VP_TRY(take_running_text(f, r, err));
    else
        VP_TRY(take_text(f, r, err));
    f->records++;
    return end_steps(f, err);
}

/* Steps from 0 on that the input was enough for, those that were passed over included. */
static int64_t steps_seen(const vp_feed *f) {
    if (!f->o.block) return f->step;
    return (f->o.first * f->o.batch - f->skip) / f->o.batch + f->step - f->o.first;
}

int vp_feed_end(vp_feed *f, vp_error *err) {
    if (!f->o.batch) return vp_packer_flush(f->o.packer, err);
    VP_TRY(end_steps(f, err));
    if (vp_feed_full(f)) return VP_OK;
    if (f->o.steps)
        return vp_fail(err, VP_DATA,
                       "%s: enough for %lld steps of %lld %s, not for %lld: mix --epochs or --steps repeats the data",
                       vp_records_name(f->o.records), (long long)steps_seen(f), (long long)f->o.batch,
                       f->o.block ? "blocks" : "records", (long long)f->o.steps);
    const int64_t tokens = vp_packer_drop(f->o.packer);
    f->counts.rows -= f->row;
    f->counts.tokens -= tokens;
    f->counts.dropped = tokens + (f->o.block ? vp_blocks_rest(&f->blocks) : 0);
    return VP_OK;
}

int vp_feed_count(const vp_feed *f, vp_map *end, vp_error *err) {
    const vp_feed_counts *n = &f->counts;
    VP_TRY(vp_map_set_int(end, "rows", n->rows, err));
    VP_TRY(vp_map_set_int(end, "tokens", n->tokens, err));
    VP_TRY(vp_map_set_int(end, "truncated", n->truncated, err));
    VP_TRY(vp_map_set_int(end, "skipped", vp_records_skipped(f->o.records) + n->left_out, err));
    VP_TRY(vp_map_set_int(end, "empty", n->empty, err));
    return f->o.batch ? vp_map_set_int(end, "dropped", n->dropped, err) : VP_OK;
}
