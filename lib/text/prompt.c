/* Prompts: the text between what comes before and after it, tokenised once; the text's tokens found from offsets; keep,
 * truncation and chunks from their positions. */
#include "lib/text/shorten.h"
#include "lib/text/slots.h"
#include "lib/text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

struct vp_prompt {
    const vp_tokenizer *t;
    vp_prompt_options o;
    char *layout, *instruction; /* layout: never empty */
    char *bare;                 /* before texts without an instruction; NULL: nothing */
    char *task[2];              /* before and after an instruction; NULL: nothing */
    char *before, *after;
    size_t nbefore, nafter;          /* bytes */
    size_t lead, trail;              /* tokens around: the tokenizer's, or those of a prompt with slots */
    vp_tokens head, tail;            /* of such a prompt */
    vp_buf whole;                    /* before, text, after */
    vp_tokens tokens;                /* of whole */
    size_t text_first, text_last;    /* tokens [first, last) have a byte of the text */
    size_t text_bytes, window, step; /* of chunks */
    vp_buf ids, keep, begin;         /* of the current row */
    vp_shortener shortener;
    bool strips, shortened; /* the white space at the end of texts goes; words of the current text went */
};

/* Expand {instruction} and take `layout` apart at {text}. */
static int expand(const char *s, size_t n, const char *instruction, char **out, size_t *len, vp_error *err) {
    static const char name[] = "{instruction}";
    const char *at = memmem(s, n, name, sizeof name - 1);
    vp_buf text = {0};
    int status = vp_buf_add(&text, s, at ? (size_t)(at - s) : n, err);
    if (!status && at) status = vp_buf_add(&text, instruction, strlen(instruction), err);
    const char *rest = at ? at + sizeof name - 1 : s + n;
    if (!status) status = vp_buf_add(&text, rest, n - (size_t)(rest - s), err);
    if (!status) status = vp_buf_add(&text, "", 1, err);
    if (status) {
        vp_buf_free(&text);
        return status;
    }
    *out = text.data;
    *len = text.len - 1;
    return VP_OK;
}

bool vp_prompt_has_task(const vp_prompt *p) {
    return p->task[0] && p->task[1];
}

static int count_of(const char *s, const char *part) {
    int count = 0;
    for (; (s = strstr(s, part)); s += strlen(part)) count++;
    return count;
}

/* The instruction as it stands in the prompt: an empty one alone, or what is there instead. */
static int dress(const vp_prompt *p, const char *instruction, vp_buf *out, vp_error *err) {
    static const char around[] = "\t\n :"; /* GRIT's instructions lose it */
    size_t n = strlen(instruction);
    if (p->bare) {
        const size_t indent = strspn(instruction, around);
        instruction += indent;
        n -= indent;
        while (n && strchr(around, instruction[n - 1])) n--;
    }
    if (p->bare && !n) return vp_buf_printf(out, err, "%s", p->bare);
    const bool task = n && vp_prompt_has_task(p);
    return vp_buf_printf(out, err, "%s%.*s%s", task ? p->task[0] : "", (int)n, instruction, task ? p->task[1] : "");
}

static int set_around_dressed(vp_prompt *p, const char *instruction, vp_error *err) {
    const char *text = strstr(p->layout, "{text}"), *after = text + strlen("{text}");
    free(p->before);
    free(p->after);
    p->before = p->after = NULL;
    VP_TRY(expand(p->layout, (size_t)(text - p->layout), instruction, &p->before, &p->nbefore, err));
    return expand(after, strlen(after), instruction, &p->after, &p->nafter, err);
}

/* What stands before and after the text. */
static int set_around(vp_prompt *p, const char *instruction, vp_error *err) {
    vp_buf dressed = {0};
    int status = dress(p, instruction, &dressed, err);
    if (!status) status = set_around_dressed(p, dressed.data, err);
    vp_buf_free(&dressed);
    return status;
}

static int open_layout(vp_prompt *p, vp_error *err) {
    const char *instruction = p->o.instruction ? p->o.instruction : "";
    const char *layout = p->o.layout && *p->o.layout ? p->o.layout : "{instruction}{text}";
    if (count_of(layout, "{text}") != 1 || count_of(layout, "{instruction}") > 1)
        return vp_fail(err, VP_USAGE, "template '%s': {text} must stand in it once, {instruction} at most once",
                       layout);
    if (*instruction && !strstr(layout, "{instruction}"))
        return vp_fail(err, VP_USAGE, "template '%s': no {instruction} for the instruction '%s'", layout, instruction);
    const char *after = p->o.after ? p->o.after : "";
    const size_t n = strlen(layout), last = strlen("{text}");
    for (int i = 0; i < 2; i++) {
        const char *task = p->o.task[i];
        if (task && !(p->task[i] = vp_strndup(task, strlen(task)))) return vp_fail_memory(err, "a prompt", 1);
    }
    if (p->o.bare && !(p->bare = vp_strndup(p->o.bare, strlen(p->o.bare)))) return vp_fail_memory(err, "a prompt", 1);
    p->strips = !p->o.as_is && *after && strcmp(layout + n - last, "{text}") == 0;
    vp_buf whole = {0};
    const int status = vp_buf_printf(&whole, err, "%s%s%s", p->o.before ? p->o.before : "", layout, after);
    p->layout = whole.data;
    return status ? status : set_around(p, instruction, err);
}

int vp_prompt_instruct(vp_prompt *p, const char *instruction, size_t n, vp_error *err) {
    static const char place[] = "{instruction}";
    if (p->instruction && strlen(p->instruction) == n && memcmp(p->instruction, instruction, n) == 0) return VP_OK;
    free(p->instruction);
    p->instruction = vp_strndup(n ? instruction : "", n);
    if (!p->instruction) return vp_fail_memory(err, "an instruction", n);
    const char *at = strstr(p->layout, place), *text = strstr(p->layout, "{text}");
    if (!at && n) return vp_fail(err, VP_USAGE, "template '%s': no {instruction} for '%s'", p->layout, p->instruction);
    VP_TRY(set_around(p, p->instruction, err));
    if (!n && !p->bare && at && at < text) p->nbefore = (size_t)(at - p->layout);
    return VP_OK;
}

/* The prompt around no text must fit. */
static int check_room(vp_prompt *p, vp_error *err) {
    size_t rows;
    int64_t limit = p->o.max_len, chunk = p->o.chunk;
    p->o.max_len = p->o.chunk = 0;
    int status = vp_prompt_encode(p, "", 0, &rows, err);
    p->o.max_len = limit;
    p->o.chunk = chunk;
    VP_TRY(status);
    int64_t around = (int64_t)p->tokens.n;
    if (limit && around > limit)
        return vp_fail(err, VP_USAGE, "a maximum length of %lld leaves no room for the %lld tokens around the text",
                       (long long)limit, (long long)around);
    if (limit && chunk && around + chunk > limit)
        return vp_fail(err, VP_USAGE, "chunks of %lld tokens and %lld around them exceed the maximum length of %lld",
                       (long long)chunk, (long long)around, (long long)limit);
    if (chunk && p->o.overlap >= chunk)
        return vp_fail(err, VP_USAGE, "an overlap of %lld is not smaller than the chunk of %lld",
                       (long long)p->o.overlap, (long long)chunk);
    return VP_OK;
}

static int open_around(vp_prompt *p, vp_error *err) {
    const vp_slot_prompt *slots = p->o.slots;
    if (!slots && p->o.specials) vp_tokenizer_specials(p->t, &p->lead, &p->trail);
    if (!slots) return VP_OK;
    VP_TRY(vp_slots_prefix(slots, p->t, p->o.specials, &p->head, err));
    VP_TRY(vp_slots_suffix(slots, p->t, (vp_slot_side)p->o.slot_side, &p->tail, err));
    p->lead = p->head.n;
    p->trail = p->tail.n;
    return VP_OK;
}

int vp_prompt_open(vp_prompt **out, const vp_tokenizer *t, const vp_prompt_options *o, vp_error *err) {
    vp_prompt *p = calloc(1, sizeof *p);
    if (!p) return vp_fail_memory(err, "a prompt", sizeof *p);
    p->t = t;
    p->o = *o;
    int status = open_around(p, err);
    if (!status) status = open_layout(p, err);
    if (!status) status = check_room(p, err);
    if (status) {
        vp_prompt_close(p);
        return status;
    }
    p->o.instruction = p->o.layout = p->o.before = p->o.after = NULL;
    p->o.bare = p->o.task[0] = p->o.task[1] = NULL; /* the caller's; not needed any more */
    *out = p;
    return VP_OK;
}

void vp_prompt_close(vp_prompt *p) {
    if (!p) return;
    free(p->layout);
    free(p->instruction);
    free(p->bare);
    free(p->task[0]);
    free(p->task[1]);
    free(p->before);
    free(p->after);
    vp_buf_free(&p->whole);
    vp_tokens_free(&p->tokens);
    vp_tokens_free(&p->head);
    vp_tokens_free(&p->tail);
    vp_buf_free(&p->ids);
    vp_buf_free(&p->keep);
    vp_buf_free(&p->begin);
    vp_shortener_free(&p->shortener);
    free(p);
}

bool vp_prompt_masks(const vp_prompt *p) {
    return p->o.slots || (!p->o.pool_prompt && (p->nbefore > 0 || (p->o.text_only && p->lead > 0)));
}

/* Tokens of the text among those between the specials: from the first that ends after its beginning to the last that
 * begins before its end. */
static void find_text(vp_prompt *p) {
    size_t first = p->lead, last = p->tokens.n - p->trail;
    size_t from = p->nbefore, to = p->nbefore + p->text_bytes;
    while (first < last && p->tokens.end[first] <= from) first++;
    while (last > first && p->tokens.start[last - 1] >= to) last--;
    p->text_first = first;
    p->text_last = last;
}

static size_t around_text(const vp_prompt *p) {
    return p->tokens.n - (p->text_last - p->text_first);
}

/* A window of the text's tokens, and how far the next one is. The prompt may take a token more beside this text than
 * alone, so the limit is looked at again. */
static size_t plan_chunks(vp_prompt *p) {
    size_t n = p->text_last - p->text_first, around = around_text(p), limit = (size_t)p->o.max_len;
    p->window = (size_t)p->o.chunk;
    if (limit && around + p->window > limit) p->window = limit > around ? limit - around : 1;
    p->step = p->window > (size_t)p->o.overlap ? p->window - (size_t)p->o.overlap : 1;
    return n <= p->window ? 1 : 1 + (n - p->window + p->step - 1) / p->step;
}

/* The text alone is cut to doc_max_len tokens, and loses the white space at its end. */
static int prepare_text(vp_prompt *p, const char **text, size_t *n, vp_error *err) {
    const size_t whole = *n;
    bool cut = false;
    *n = vp_text_first(*text, *n, p->o.max_chars);
    p->shortened = *n < whole;
    if (p->o.doc_max_len)
        VP_TRY(vp_text_shorten(&p->shortener, p->t, p->o.doc_max_len, p->o.max_len, text, n, &cut, err));
    if (cut && p->o.truncation == VP_TRUNCATE_ERROR)
        return vp_fail(err, VP_DATA, "more than the %lld tokens that a text may have", (long long)p->o.doc_max_len);
    p->shortened |= cut;
    if (p->strips) *n = vp_text_stripped(*text, *n);
    return VP_OK;
}

/* Tokens that stand for no byte of the text, which is at place `at`. */
static int add_around(vp_prompt *p, const vp_tokens *piece, size_t at, vp_error *err) {
    for (size_t i = 0; i < piece->n; i++) VP_TRY(vp_tokens_add(&p->tokens, piece->id[i], at, at, err));
    return VP_OK;
}

int vp_prompt_encode(vp_prompt *p, const char *text, size_t n, size_t *rows, vp_error *err) {
    VP_TRY(prepare_text(p, &text, &n, err));
    bool bare = p->nbefore == 0 && p->nafter == 0;
    p->tokens.n = 0;
    p->whole.len = 0;
    p->text_bytes = n;
    if (!bare) {
        VP_TRY(vp_buf_add(&p->whole, p->before, p->nbefore, err));
        VP_TRY(vp_buf_add(&p->whole, text, n, err));
        VP_TRY(vp_buf_add(&p->whole, p->after, p->nafter, err));
    }
    VP_TRY(add_around(p, &p->head, 0, err));
    VP_TRY(vp_tokenizer_encode(p->t, bare ? text : p->whole.data, bare ? n : p->whole.len, p->o.specials && !p->o.slots,
                               &p->tokens, err));
    VP_TRY(add_around(p, &p->tail, bare ? n : p->whole.len, err));
    find_text(p);
    *rows = p->o.chunk ? plan_chunks(p) : 1;
    if (p->o.truncation == VP_TRUNCATE_ERROR && p->o.max_len && !p->o.chunk && p->tokens.n > (size_t)p->o.max_len)
        return vp_fail(err, VP_DATA, "%zu tokens, more than the maximum length of %lld", p->tokens.n,
                       (long long)p->o.max_len);
    return VP_OK;
}

/* Tokens [a, b) of the whole, but [from, to) of it. */
static int take(vp_prompt *p, size_t a, size_t b, vp_error *err) {
    if (b <= a) return VP_OK;
    VP_TRY(vp_buf_add(&p->ids, p->tokens.id + a, (b - a) * sizeof *p->tokens.id, err));
    const size_t first = p->o.slots ? p->tokens.n - p->o.slots->slots : vp_prompt_masks(p) ? p->text_first : 0;
    for (size_t i = a; i < b; i++) {
        char kept = (char)(i >= first);
        VP_TRY(vp_buf_add(&p->keep, &kept, 1, err));
        const size_t at = p->tokens.start[i];
        uint32_t begin = VP_NO_TEXT;
        if (i >= p->text_first && i < p->text_last) begin = (uint32_t)(at > p->nbefore ? at - p->nbefore : 0);
        VP_TRY(vp_buf_add(&p->begin, &begin, sizeof begin, err));
    }
    return VP_OK;
}

/* The part [*first, *last) of the text's tokens that row k has, and where the tokens after the text end. */
static void choose(const vp_prompt *p, size_t k, size_t *first, size_t *last, size_t *end) {
    size_t limit = (size_t)p->o.max_len, n = p->tokens.n;
    size_t over = limit && n > limit ? n - limit : 0, text = p->text_last - p->text_first;
    *first = p->text_first;
    *last = p->text_last;
    *end = n - p->trail;
    if (p->o.chunk) {
        *first = p->text_first + k * p->step;
        *last = *first + p->window < p->text_last ? *first + p->window : p->text_last;
    } else if (over && p->o.truncation == VP_TRUNCATE_LEFT) {
        *first += over < text ? over : text;
        *end -= over < text ? 0 : over - text;
    } else if (over) { /* right: the end of everything, then of the text; the tokenizer's specials stay */
        *end -= over < *end - p->lead ? over : *end - p->lead;
        if (*last > *end) *last = *end;
        if (*first > *last) *first = *last;
    }
}

int vp_prompt_row_at(vp_prompt *p, size_t k, vp_prompt_row *row, vp_error *err) {
    size_t first, last, end;
    choose(p, k, &first, &last, &end);
    p->ids.len = p->keep.len = p->begin.len = 0;
    size_t prompt_end = p->text_first < end ? p->text_first : end;
    VP_TRY(take(p, 0, prompt_end, err));
    VP_TRY(take(p, first, last, err));
    VP_TRY(take(p, p->text_last, end, err));
    VP_TRY(take(p, p->tokens.n - p->trail, p->tokens.n, err));
    size_t n = p->ids.len / sizeof(int32_t);
    *row = (vp_prompt_row){.ids = (const int32_t *)(const void *)p->ids.data,
                           .keep = (const uint8_t *)p->keep.data,
                           .begin = (const uint32_t *)(const void *)p->begin.data,
                           .n = n,
                           .truncated = p->shortened || (!p->o.chunk && n < p->tokens.n)};
    row->full = p->o.max_len && p->text_first >= (size_t)p->o.max_len;
    row->to = p->text_bytes;
    if (first < last) {
        size_t from = p->tokens.start[first], to = p->tokens.end[last - 1];
        row->from = from > p->nbefore ? from - p->nbefore : 0;
        row->to = to - p->nbefore < p->text_bytes ? to - p->nbefore : p->text_bytes;
    }
    return VP_OK;
}

static const char *const truncations[] = {"right", "left", "error"};

const char *vp_truncation_name(vp_truncation t) {
    return truncations[t];
}

vp_truncation vp_truncation_named(const char *name) {
    for (int i = 0; i < 3; i++)
        if (name && strcmp(name, truncations[i]) == 0) return (vp_truncation)i;
    return VP_TRUNCATE_RIGHT;
}
