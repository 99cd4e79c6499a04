/* Records from JSONL or from plain lines: bounded lines over read(2), strict UTF-8 and JSON, the control lines of our
 * own JSONL, and what identifies and embeds a record. */
#include "lib/text/text.h"
#include "lib/text/examples.h"
#include "lib/text/json_text.h"
#include "lib/text/turns.h"
#include "lib/text/words.h"
#include "lib/stream/input.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE ((size_t)64 << 20)
#define CHUNK    ((size_t)1 << 16)

struct vp_records {
    vp_input *in;
    char *name;
    vp_record_format format;
    bool skip_bad, end_of_input, ended; /* ended: the closing _vp line came */
    vp_buf window;                      /* bytes that were read; the current line is [start, next) */
    size_t start, next, scanned;
    int64_t number, rows, skipped;
    vp_map *head;
    json_t *object;    /* of the current record */
    vp_json_text line; /* its source */
    vp_buf meta;
    vp_example_store example;
    vp_joined words; /* of the current record */
    vp_turn_store turns;
};

int vp_records_open(vp_records **out, int fd, const char *name, vp_record_format format, bool skip_bad, vp_error *err) {
    vp_records *r = calloc(1, sizeof *r);
    if (!r) return vp_fail_memory(err, "a record reader", sizeof *r);
    r->format = format;
    r->skip_bad = skip_bad;
    r->name = vp_strndup(name, strlen(name));
    int status = r->name ? vp_input_open(&r->in, fd, name, err) : vp_fail_memory(err, "a name", strlen(name));
    if (status) {
        vp_records_close(r);
        return status;
    }
    *out = r;
    return VP_OK;
}

void vp_records_close(vp_records *r) {
    if (!r) return;
    vp_input_close(r->in);
    vp_map_free(r->head);
    json_decref(r->object);
    vp_buf_free(&r->window);
    vp_buf_free(&r->meta);
    vp_example_free(&r->example);
    vp_joined_free(&r->words);
    vp_turns_free(&r->turns);
    free(r->name);
    free(r);
}

const vp_map *vp_records_head(const vp_records *r) {
    return r->head;
}
int64_t vp_records_skipped(const vp_records *r) {
    return r->skipped;
}

void vp_records_watch(vp_records *r, int output) {
    vp_input_watch(r->in, output);
}

/* One more read into the window, after moving the unfinished line to its front. */
static int fill(vp_records *r, vp_error *err) {
    if (r->start) {
        memmove(r->window.data, r->window.data + r->start, r->window.len - r->start);
        r->window.len -= r->start;
        r->scanned -= r->start;
        r->next = r->start = 0;
    }
    if (r->window.len > MAX_LINE)
        return vp_fail(err, VP_DATA, "%s:%lld: a line longer than %zu bytes", r->name, (long long)r->number + 1,
                       MAX_LINE);
    VP_TRY(vp_buf_reserve(&r->window, r->window.len + CHUNK, err));
    size_t n;
    VP_TRY(vp_input_read(r->in, r->window.data + r->window.len, r->window.cap - r->window.len, &n, err));
    r->window.len += n;
    r->end_of_input = n == 0;
    return VP_OK;
}

bool vp_records_ready(vp_records *r, int timeout_ms) {
    vp_error met_again = {0}; /* by whoever reads on */
    r->start = r->scanned = r->next;
    while (!r->end_of_input) {
        const size_t n = r->window.len - r->scanned;
        if (n && memchr(r->window.data + r->scanned, '\n', n)) return true;
        if (!vp_input_ready(r->in, timeout_ms)) return false;
        r->scanned = r->window.len;
        if (fill(r, &met_again)) return true;
    }
    return true;
}

/* The next line without its newline (and without a carriage return before it); *got = false at the end of the input. */
static int next_line(vp_records *r, const char **line, size_t *n, bool *got, vp_error *err) {
    r->start = r->scanned = r->next;
    const char *newline = NULL;
    for (;;) {
        const char *data = r->window.data;
        if (r->scanned < r->window.len) newline = memchr(data + r->scanned, '\n', r->window.len - r->scanned);
        if (newline || r->end_of_input) break;
        r->scanned = r->window.len;
        VP_TRY(fill(r, err));
    }
    size_t stop = newline ? (size_t)(newline - r->window.data) : r->window.len;
    *got = newline || stop > r->start;
    if (!*got) return VP_OK;
    r->next = newline ? stop + 1 : stop;
    r->number++;
    *line = r->window.data + r->start;
    *n = stop - r->start;
    if (*n && (*line)[*n - 1] == '\r') --*n;
    if (r->number == 1 && *n >= 3 && memcmp(*line, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        *line += 3;
        *n -= 3;
    }
    return VP_OK;
}

static int bad(const vp_records *r, vp_error *err, const char *why) {
    return vp_fail(err, VP_DATA, "%s:%lld: %s", r->name, (long long)r->number, why);
}

/* A _vp line: the first line (head) or the last one (end). */
static int take_control(vp_records *r, vp_json_text line, const json_t *vp, vp_error *err) {
    vp_json_text inside;
    if (!json_is_object(vp) || !vp_json_text_member(line, "_vp", &inside)) return bad(r, err, "_vp is not an object");
    if (json_is_true(json_object_get(vp, "end"))) {
        if (!r->head) return bad(r, err, "an end line without the head that belongs to it");
        const json_t *rows = json_object_get(vp, "rows");
        if (!json_is_number(rows) || json_number_value(rows) != (double)(r->rows + r->skipped))
            return vp_fail(err, VP_UPSTREAM, "%s:%lld: the end line counts other rows than the %lld that came", r->name,
                           (long long)r->number, (long long)(r->rows + r->skipped));
        r->ended = true;
        return VP_OK;
    }
    if (r->head || r->rows || r->skipped) return bad(r, err, "a _vp head that is not the first line");
    if (json_number_value(json_object_get(vp, "jsonl")) != 1)
        return bad(r, err, "_vp.jsonl is not 1: another version of the format");
    return vp_map_from_json(&r->head, inside.s, inside.n, r->name, err);
}

/* A string member; absent and null give NULL. */
static int take_string(const vp_records *r, const char *key, const char **s, size_t *n, vp_error *err) {
    const json_t *v = json_object_get(r->object, key);
    *s = NULL;
    *n = 0;
    if (!v || json_is_null(v)) return VP_OK;
    if (!json_is_string(v))
        return vp_fail(err, VP_DATA, "%s:%lld: '%s' is not a string", r->name, (long long)r->number, key);
    *s = json_string_value(v);
    *n = json_string_length(v);
    return VP_OK;
}

/* A string, or a number as it is spelled in the line. */
static int take_name(const vp_records *r, vp_json_text line, const char *key, const char **s, size_t *n,
                     vp_error *err) {
    if (!json_is_number(json_object_get(r->object, key))) {
        VP_TRY(take_string(r, key, s, n, err));
    } else {
        vp_json_text spelled;
        if (!vp_json_text_member(line, key, &spelled))
            return bad(r, err, "the key of a number is written with escapes");
        *s = spelled.s;
        *n = spelled.n;
    }
    if (*s && memchr(*s, '\0', *n)) return bad(r, err, "an identifier holds U+0000");
    return *s && *n == 0 ? bad(r, err, "an identifier is empty") : VP_OK;
}

static int take_id(const vp_records *r, vp_json_text line, vp_record *record, vp_error *err) {
    const json_t *id = json_object_get(r->object, "id");
    const char *key = id && !json_is_null(id) ? "id" : "_id";
    return take_name(r, line, key, &record->id, &record->id_len, err);
}

/* The line without the members `own` (NULL-ended), canonical. */
static int take_meta(vp_records *r, vp_json_text line, const char *const *own, vp_record *record, vp_error *err) {
    r->meta.len = 0;
    VP_TRY(vp_json_text_compact(line, own, &r->meta, err));
    if (r->meta.len) {
        record->meta = r->meta.data;
        record->meta_len = r->meta.len;
    }
    return VP_OK;
}

static bool is_example(const vp_records *r) {
    const json_t *text = json_object_get(r->object, "text");
    return (r->format == VP_RECORDS_EXAMPLES || r->format == VP_RECORDS_QUERIES) && vp_example_is(r->object) &&
           (!text || json_is_null(text));
}

/* A conversation to be trained on, which has no text. */
static int take_conversation(vp_records *r, vp_record *record, vp_error *err) {
    vp_error why = {0};
    const int status = vp_turns_read_training(&r->turns, r->object, &record->wanted, &why);
    if (status) return vp_fail(err, status, "%s:%lld: %s", r->name, (long long)r->number, why.text);
    record->turn = r->turns.turn;
    record->turns = r->turns.n;
    return VP_OK;
}

static int take_example(vp_records *r, vp_json_text line, vp_record *record, vp_error *err) {
    const bool whole = r->format == VP_RECORDS_EXAMPLES;
    vp_error why = {0};
    const int status =
        whole ? vp_example_read(&r->example, r->object, &why) : vp_example_read_query(&r->example, r->object, &why);
    if (status) return vp_fail(err, status, "%s:%lld: %s", r->name, (long long)r->number, why.text);
    if (whole) {
        record->example = &r->example.example;
        return VP_OK;
    }
    const vp_example_text *query = &r->example.example.text[0];
    record->text = query->text;
    record->text_len = query->text_len;
    record->instruction = query->instruction;
    record->instruction_len = query->instruction_len;
    return take_meta(r, line, NULL, record, err);
}

static int take_text(const vp_records *r, vp_record *record, vp_error *err) {
    VP_TRY(take_string(r, "text", &record->text, &record->text_len, err));
    if (!record->text) return bad(r, err, "no 'text'");
    return take_string(r, "title", &record->title, &record->title_len, err);
}

static int take_words(vp_records *r, vp_record *record, vp_error *err) {
    VP_TRY(vp_words_join(&r->words, r->object, r->name, r->number, err));
    record->text = r->words.text.data;
    record->text_len = r->words.text.len;
    record->word_end = (const uint32_t *)(const void *)r->words.end.data;
    record->words = r->words.end.len / sizeof *record->word_end;
    return VP_OK;
}

static int take_prompt(vp_records *r, vp_record *record, vp_error *err) {
    vp_error why = {0};
    const int status = vp_turns_read(&r->turns, r->object, &why);
    if (status) return vp_fail(err, status, "%s:%lld: %s", r->name, (long long)r->number, why.text);
    record->turn = r->turns.n ? r->turns.turn : NULL;
    record->turns = r->turns.n;
    if (record->turn) return VP_OK;
    VP_TRY(take_string(r, "prompt", &record->text, &record->text_len, err));
    return record->text ? VP_OK : bad(r, err, "no 'prompt', and no 'messages'");
}

/* What the format says is the record's text. */
static int take_content(vp_records *r, vp_record *record, vp_error *err) {
    if (r->format == VP_RECORDS_PROMPTS) return take_prompt(r, record, err);
    return r->format == VP_RECORDS_WORDS ? take_words(r, record, err) : take_text(r, record, err);
}

/* The members of a line of JSON. *control: it was a _vp line. */
static int take_json(vp_records *r, vp_json_text line, vp_record *record, bool *control, vp_error *err) {
    r->line = line;
    const json_t *vp = json_object_get(r->object, "_vp");
    *control = vp != NULL;
    if (vp) return take_control(r, line, vp, err);
    if (is_example(r)) {
        VP_TRY(take_id(r, line, record, err));
        return take_example(r, line, record, err);
    }
    if (r->format == VP_RECORDS_EXAMPLES && vp_turns_are_training(r->object)) {
        VP_TRY(take_id(r, line, record, err));
        return take_conversation(r, record, err);
    }
    VP_TRY(take_content(r, record, err));
    VP_TRY(take_id(r, line, record, err));
    const char *const own[] = {"id", "_id", r->format == VP_RECORDS_WORDS ? "words" : "text", NULL};
    static const char *const answer[] = {"id", "_id", VP_PROMPT_ANSWER, NULL};
    return take_meta(r, line, r->format == VP_RECORDS_PROMPTS ? answer : own, record, err);
}

static int take_line(vp_records *r, const char *line, size_t n, vp_record *record, bool *control, vp_error *err) {
    *record = (vp_record){.line = line, .line_len = n, .number = r->number, .wanted = -1};
    json_decref(r->object);
    r->object = NULL;
    const bool json =
        r->format == VP_RECORDS_OBJECTS ? memmem(line, n, "\"_vp\"", 5) != NULL : r->format != VP_RECORDS_LINES;
    VP_TRY(vp_line_parse(line, n, json ? &r->object : NULL, r->name, r->number, err));
    if (json && (r->format != VP_RECORDS_OBJECTS || json_object_get(r->object, "_vp")))
        return take_json(r, (vp_json_text){line, n}, record, control, err);
    record->text = line;
    record->text_len = n;
    return VP_OK;
}

static bool blank(const char *s, size_t n) {
    while (n && (*s == ' ' || *s == '\t' || *s == '\r')) s++, n--;
    return n == 0;
}

static int at_end(const vp_records *r, vp_error *err) {
    if (!r->head || r->ended) return VP_OK;
    return vp_fail(err, VP_UPSTREAM, "%s: the closing _vp line is missing: the program that wrote it died", r->name);
}

/* A program of ours ends every line, so one without its newline was cut off. */
static bool cut_off(const vp_records *r) {
    return r->head && !r->ended && r->window.data[r->next - 1] != '\n';
}

static int next_record(vp_records *r, bool wait, vp_record *record, bool *got, bool *more, vp_error *err) {
    const char *line;
    size_t n;
    *more = true;
    for (;;) {
        *got = false;
        if (!wait && !vp_records_ready(r, 0)) return VP_OK;
        VP_TRY(next_line(r, &line, &n, got, err));
        *more = *got;
        if (!*got) return at_end(r, err);
        if (r->format != VP_RECORDS_LINES && blank(line, n)) continue;
        if (r->ended) return bad(r, err, "more lines after the closing _vp line");
        vp_error why = {0};
        bool control = false;
        int status = take_line(r, line, n, record, &control, &why);
        if (status == VP_DATA && cut_off(r)) return at_end(r, err);
        if (status == VP_DATA && r->skip_bad && !control) {
            r->skipped++;
            continue;
        }
        if (status) return vp_fail(err, status, "%s", why.text);
        if (control) continue;
        r->rows++;
        return VP_OK;
    }
}

int vp_records_next(vp_records *r, vp_record *record, bool *got, vp_error *err) {
    bool more;
    return next_record(r, true, record, got, &more, err);
}

int vp_records_next_here(vp_records *r, vp_record *record, bool *got, bool *more, vp_error *err) {
    return next_record(r, false, record, got, more, err);
}

const char *vp_records_name(const vp_records *r) {
    return r->name;
}

int vp_records_fail(const vp_records *r, int64_t number, const char *id, size_t n, int status, const char *why,
                    vp_error *err) {
    if (!id) return vp_fail(err, status, "%s:%lld: %s", r->name, (long long)number, why);
    return vp_fail(err, status, "%s:%lld: '%.*s': %s", r->name, (long long)number, n < 80 ? (int)n : 80, id, why);
}

int vp_records_field(const vp_records *r, const char *key, const char **s, size_t *n, vp_error *err) {
    VP_TRY(take_name(r, r->line, key, s, n, err));
    if (*s) return VP_OK;
    return vp_fail(err, VP_DATA, "%s:%lld: no '%s' to identify the record", r->name, (long long)r->number, key);
}

int vp_record_hash(const vp_record *record, uint8_t out[16], vp_error *err) {
    vp_hasher h;
    VP_TRY(vp_hasher_begin(&h, err));
    vp_hasher_part(&h, record->title, record->title_len);
    vp_hasher_part(&h, record->text, record->text_len);
    vp_hasher_finish(&h, out);
    return VP_OK;
}

int vp_record_text(const vp_record *record, vp_buf *out, vp_error *err) {
    if (record->title_len) {
        VP_TRY(vp_buf_add(out, record->title, record->title_len, err));
        VP_TRY(vp_buf_add(out, " ", 1, err));
    }
    return vp_buf_add(out, record->text, record->text_len, err);
}
