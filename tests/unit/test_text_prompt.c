/* Prompts and packing: what is put around a text, which tokens are pooled, truncation, chunks; frames within a budget.
 * The tokenizer is one token a character, with [CLS] and [SEP] around. */
#include "lib/text/text.h"
#include "tests/unit/tap.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Letters a-z are 0-25, space 26, [ 27, ] 28, [CLS] 29, [SEP] 30, and "xy" is one token, 31. */
static vp_tokenizer *make_tokenizer(void) {
    char path[] = "/tmp/vp-prompt-XXXXXX.json";
    int fd = mkstemps(path, 5);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!f) abort();
    fputs("{\"added_tokens\":[{\"id\":29,\"content\":\"[CLS]\",\"special\":true},{\"id\":30,\"content\":\"[SEP]\","
          "\"special\":true}],"
          "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"[CLS]\",29],\"sep\":[\"[SEP]\",30]},"
          "\"model\":{\"type\":\"BPE\",\"merges\":[\"x y\"],\"vocab\":{",
          f);
    for (int c = 0; c < 26; c++) fprintf(f, "\"%c\":%d,", 'a' + c, c);
    fputs("\" \":26,\"[\":27,\"]\":28,\"xy\":31}}}", f);
    fclose(f);
    vp_tokenizer *t = NULL;
    vp_error err = {0};
    OK(vp_tokenizer_open(&t, path, &err) == VP_OK, "the tokenizer %s", err.text);
    unlink(path);
    return t;
}

/* Tokens as letters, [CLS] ^, [SEP] $, xy @; upper case (and < > for the two) when pooled. */
static void spell(const vp_prompt_row *row, char *out) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz_[]^$@", pooled[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ~{}<>#";
    for (size_t i = 0; i < row->n; i++) *out++ = (row->keep[i] ? pooled : plain)[row->ids[i]];
    *out = '\0';
}

static const struct {
    const char *what;
    vp_prompt_options o;
    const char *text;
    const char *want; /* rows, separated by | ; ! before a truncated one */
} cases[] = {
    {"no prompt: everything is pooled", {.specials = true}, "ab", "<AB>"},
    {"no specials", {0}, "ab", "AB"},
    {"an empty text", {0}, "", ""},
    {"specials before an instruction are not pooled, those after are",
     {.specials = true, .instruction = "q"},
     "ab",
     "^qAB>"},
    {"unless prompts are", {.specials = true, .instruction = "q", .pool_prompt = true}, "ab", "<QAB>"},
    {"a token over the border is the text's", {.instruction = "ax"}, "yb", "a#B"},
    {"a layout: what follows the text is pooled",
     {.layout = "[{instruction}{text}]", .instruction = "q"},
     "ab",
     "[qAB}"},
    {"a token over the other border", {.layout = "{text}y"}, "ax", "A#"},
    {"a layout without instruction", {.layout = "q {text}"}, "ab", "q_AB"},
    {"an instruction after the text", {.layout = "{text} {instruction}", .instruction = "q"}, "ab", "AB~Q"},
    {"specials in the text", {0}, "a[SEP]b", "A>B"},
    {"right", {.specials = true, .max_len = 4}, "abcd", "!<AB>"},
    {"exactly as long as allowed", {.specials = true, .max_len = 4}, "ab", "<AB>"},
    {"right, with a prompt: its end goes first", {.layout = "q{text}]", .max_len = 4}, "abcd", "!qABC"},
    {"left, with a prompt: it stays",
     {.layout = "q{text}]", .max_len = 4, .truncation = VP_TRUNCATE_LEFT},
     "abcd",
     "!qCD}"},
    {"left, with specials", {.specials = true, .max_len = 3, .truncation = VP_TRUNCATE_LEFT}, "abcd", "!<D>"},
    {"chunks", {.specials = true, .chunk = 2}, "abcde", "<AB>|<CD>|<E>"},
    {"chunks that overlap", {.specials = true, .chunk = 3, .overlap = 1}, "abcde", "<ABC>|<CDE>"},
    {"chunks of a short text", {.specials = true, .chunk = 3}, "a", "<A>"},
    {"chunks of nothing", {.specials = true, .chunk = 3}, "", "<>"},
    {"chunks within a prompt",
     {.specials = true, .chunk = 2, .layout = "[{instruction}{text}]", .instruction = "q"},
     "abc",
     "^[qAB}>|^[qC}>"},
    {"text only: specials are not pooled without a prompt, either",
     {.specials = true, .text_only = true},
     "ab",
     "^AB>"},
    {"text only, with prompts pooled", {.specials = true, .text_only = true, .pool_prompt = true}, "ab", "<AB>"},
    {"text only, without specials", {.text_only = true}, "ab", "AB"},
    /* a chat: the prefix is not pooled, the suffix is */
    {"a chat around instruction and text",
     {.specials = true, .before = "[", .after = " ]", .instruction = "q "},
     "ab \n\t ",
     "^[q_AB~}>"},
    {"a chat keeps the text's indent", {.before = "[", .after = "]"}, " ab ", "[~AB}"},
    {"a chat around nothing", {.specials = true, .before = "[", .after = "]"}, " \n", "^[}>"},
    {"a chat around a layout that ends otherwise", {.before = "[", .after = "]", .layout = "q{text}x"}, "a ", "[qA~X}"},
    {"an end alone", {.after = "]", .text_only = true, .specials = true}, "ab ", "^AB}>"},
    {"a chat's end goes first", {.before = "[", .after = "]", .max_len = 3}, "abc", "![AB"},
    {"a task's dress, and texts as they are",
     {.specials = true, .task = {"x ", "] "}, .as_is = true, .instruction = "q", .after = "[SEP]"},
     "ab ",
     "^x_q]_AB~>>"},
    {"no task, no dress", {.specials = true, .task = {"x ", "] "}, .as_is = true, .after = "[SEP]"}, "a", "<A>>"},
    /* words * limit / tokens: 4 * 8 / 11 = 2.9 */
    {"words go", {.doc_max_len = 8}, "ab cd ef gh", "!AB~CD"},
    {"few enough: white space stays", {.doc_max_len = 9}, "ab  cd ef", "AB~~CD~EF"},
    /* 8 tokens, for this tokenizer has no other white space: 3 * 6 / 8 = 2.25 */
    {"too many: one space, whatever there was",
     {.doc_max_len = 6},
     " ab \t\xc2\xa0"
     "cd\x1c"
     "ef\n",
     "!AB~CD"},
    /* 4 * 6 / 14 = 1.7, then 1 * 6 / 8 = 0.75 */
    {"again and again, to nothing", {.doc_max_len = 6}, "abcdefgh i j k", "!"},
    /* of 11 tokens 9 are counted: 4 * 8 / 9 = 3.6 */
    {"counted up to the maximum length", {.doc_max_len = 8, .max_len = 9}, "ab cd ef gh", "!AB~CD~EF"},
    {"so a limit above that is none", {.doc_max_len = 9, .max_len = 9}, "ab cd ef gh", "!AB~CD~EF~"},
    {"specials and prompts do not count",
     {.specials = true, .doc_max_len = 2, .before = "[", .after = "]", .instruction = "qq"},
     "a b",
     "!^[qqA}>"},
};

static void check_prompts(const vp_tokenizer *t) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_prompt *p = NULL;
        vp_error err = {0};
        vp_prompt_row row;
        size_t rows = 0;
        char got[200] = "";
        int status = vp_prompt_open(&p, t, &cases[i].o, &err);
        if (!status) status = vp_prompt_encode(p, cases[i].text, strlen(cases[i].text), &rows, &err);
        for (size_t k = 0; !status && k < rows; k++) {
            status = vp_prompt_row_at(p, k, &row, &err);
            size_t at = strlen(got);
            if (status) break;
            snprintf(got + at, sizeof got - at, "%s%s", k ? "|" : "", row.truncated ? "!" : "");
            spell(&row, got + strlen(got));
        }
        OK(status == 0 && strcmp(got, cases[i].want) == 0, "%s: %s, not %s %s", cases[i].what, got, cases[i].want,
           err.text);
        vp_prompt_close(p);
    }
}

static const struct {
    const char *what;
    vp_prompt_options o;
    int status;
} refused[] = {
    {"no {text}", {.layout = "q"}, VP_USAGE},
    {"{text} twice", {.layout = "{text}{text}"}, VP_USAGE},
    {"an instruction that goes nowhere", {.layout = "q{text}", .instruction = "i"}, VP_USAGE},
    {"no room for specials", {.specials = true, .max_len = 1}, VP_USAGE},
    {"no room for a prompt", {.instruction = "abcdef", .max_len = 5}, VP_USAGE},
    {"chunks longer than the limit", {.specials = true, .max_len = 5, .chunk = 4}, VP_USAGE},
    {"an overlap of a whole chunk", {.chunk = 4, .overlap = 4}, VP_USAGE},
    {"a text that may not be cut", {.max_len = 2, .truncation = VP_TRUNCATE_ERROR}, VP_DATA},
    {"nor at words", {.doc_max_len = 2, .truncation = VP_TRUNCATE_ERROR}, VP_DATA},
};

static void check_refusals(const vp_tokenizer *t) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        vp_prompt *p = NULL;
        vp_error err = {0};
        size_t rows;
        int status = vp_prompt_open(&p, t, &refused[i].o, &err);
        if (!status) status = vp_prompt_encode(p, "abcd", 4, &rows, &err);
        OK(status == refused[i].status, "%s: %d %s", refused[i].what, status, err.text);
        vp_prompt_close(p);
    }
}

/* The part of the text that a chunk stands for. */
static void check_chunk_text(const vp_tokenizer *t) {
    vp_prompt *p = NULL;
    vp_error err = {0};
    vp_prompt_options o = {.specials = true, .chunk = 2, .layout = "q {text}"};
    vp_prompt_row row = {0};
    size_t rows = 0;
    int status = vp_prompt_open(&p, t, &o, &err);
    if (!status) status = vp_prompt_encode(p, "axyb", 4, &rows, &err);
    if (!status) status = vp_prompt_row_at(p, 0, &row, &err);
    OK(status == 0 && rows == 2 && row.from == 0 && row.to == 3, "the first chunk is bytes %zu to %zu", row.from,
       row.to);
    if (!status) status = vp_prompt_row_at(p, 1, &row, &err);
    OK(status == 0 && row.from == 3 && row.to == 4, "the second %zu to %zu %s", row.from, row.to, err.text);
    vp_prompt_close(p);
}

/* ---- packing ---- */
/* Rows of these lengths; token ids say the row, so that the frames can be checked. */
static void pack(vp_packer *p, const size_t *length, size_t n, vp_error *err) {
    int32_t ids[64];
    uint8_t keep[64] = {0};
    for (size_t i = 0; i < n; i++) {
        char id[24];
        for (size_t k = 0; k < length[i]; k++) ids[k] = (int32_t)i;
        vp_pack_row row = {.id = id, .row = (int64_t)i, .ids = ids, .keep = keep, .n = length[i], .hash = {(uint8_t)i}};
        row.id_len = (size_t)snprintf(id, sizeof id, "r%zu", i);
        vp_packer_add(p, &row, err);
    }
    vp_packer_flush(p, err);
}

static bool check_frame(const vp_frame *f, bool *seen, size_t nseen, const size_t *length, vp_error *err) {
    int32_t *ids = NULL, *cu = NULL;
    bool right = !vp_frame_ints(f, "ids", &ids, NULL, err) && !vp_frame_ints(f, "cu", &cu, NULL, err) && cu;
    const vp_column *row = vp_frame_find(f, "row"), *hash = vp_frame_find(f, "hash"), *id = vp_frame_find(f, "id");
    for (int64_t b = 0; right && b < f->B; b++) {
        int64_t r;
        char scratch[32], want[24];
        const char *s;
        size_t n;
        memcpy(&r, row->data + 8 * b, 8);
        right = r >= 0 && (size_t)r < nseen && !seen[r] && (size_t)(cu[b + 1] - cu[b]) == length[r] &&
                hash->data[16 * b] == r;
        if (right) seen[r] = true;
        for (int32_t k = cu[b]; right && k < cu[b + 1]; k++) right = ids[k] == r;
        if (right) right = !vp_column_str(f, id, b, &s, &n, scratch, err);
        snprintf(want, sizeof want, "r%lld", (long long)r);
        right = right && n == strlen(want) && memcmp(s, want, n) == 0;
    }
    free(ids);
    free(cu);
    return right;
}

static void check_packing(void) {
    static const size_t length[] = {5, 1, 0, 9, 3, 20, 2, 4, 0, 6};
    enum { ROWS = sizeof length / sizeof *length };
    bool seen[ROWS] = {false};
    vp_pack_options o = {.batch_tokens = 10, .window = 8, .keep = true};
    vp_error err = {0};
    vp_map *header = vp_map_new(), *source = vp_map_new();
    vp_writer *w = NULL;
    vp_reader *r = NULL;
    vp_packer *p = NULL;
    vp_frame *f = NULL;
    FILE *file = tmpfile();
    if (!header || !source || !file) abort();
    bool ok = !vp_map_set_str(source, "index", "u", &err) && !vp_packer_declare(&o, header, &err) &&
              !vp_writer_open(&w, fileno(file), "file", &err) && !vp_writer_header(w, header, "test", &err) &&
              !vp_packer_open(&p, w, &o, &err) && !vp_packer_source(p, source, &err);
    if (ok) pack(p, length, ROWS, &err);
    ok = ok && !err.code && !vp_packer_holds(p) && !vp_writer_end(w, source, &err);
    OK(ok, "frames are written %s", err.text);
    lseek(fileno(file), 0, SEEK_SET);
    int status = ok ? vp_reader_open(&r, fileno(file), "file", &err) : VP_BUG;
    bool within = true, right = true, sources = true;
    size_t rows = 0;
    while (!status && !(status = vp_reader_next(r, &f, &err)) && f) {
        if (f->kind != VP_FRAME_BATCH) continue;
        vp_map *given = vp_map_sub(f->keys, "source");
        sources = sources && given && vp_map_str(given, "index");
        vp_map_free(given);
        within = within && (f->T <= 10 || f->B == 1);
        right = right && check_frame(f, seen, ROWS, length, &err);
        rows += (size_t)f->B;
    }
    OK(status == 0 && rows == ROWS && right, "every row once and whole: %zu %s", rows, err.text);
    OK(within, "no frame above its tokens, but for one long row");
    OK(sources, "every frame carries its source");
    vp_reader_close(r);
    vp_packer_close(p);
    vp_writer_close(w);
    vp_map_free(header);
    vp_map_free(source);
    fclose(file);
}

/* One prompt, other instructions. */
static void check_instructions(const vp_tokenizer *t) {
    static const struct {
        const char *instruction, *want;
    } turns[] = {{"q", "q]_AB"}, {"xy", "@]_AB"}, {"xy", "@]_AB"}, {"", "AB"}, {"q", "q]_AB"}};
    const vp_prompt_options o = {.layout = "{instruction}] {text}", .instruction = "z"};
    vp_prompt *p;
    vp_prompt_row row;
    vp_error err = {0};
    size_t rows;
    char got[16];
    if (vp_prompt_open(&p, t, &o, &err)) abort();
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        const char *s = turns[i].instruction;
        if (vp_prompt_instruct(p, s, strlen(s), &err) || vp_prompt_encode(p, "ab", 2, &rows, &err) ||
            vp_prompt_row_at(p, 0, &row, &err))
            abort();
        spell(&row, got);
        OK(strcmp(got, turns[i].want) == 0, "instruction '%s': %s", s, got);
    }
    vp_prompt_close(p);
    const vp_prompt_options chat = {.before = "[", .after = "]", .instruction = "z"};
    if (vp_prompt_open(&p, t, &chat, &err) || vp_prompt_instruct(p, "", 0, &err) ||
        vp_prompt_encode(p, "ab", 2, &rows, &err) || vp_prompt_row_at(p, 0, &row, &err))
        abort();
    spell(&row, got);
    OK(strcmp(got, "[AB}") == 0, "a chat without instruction: %s", got);
    vp_prompt_close(p);
    const vp_prompt_options plain = {.layout = "[{text}"};
    if (vp_prompt_open(&p, t, &plain, &err)) abort();
    OK(vp_prompt_instruct(p, "q", 1, &err) == VP_USAGE, "no place for an instruction: %s", err.text);
    vp_prompt_close(p);
}

int main(void) {
    vp_tokenizer *t = make_tokenizer();
    if (t) {
        check_prompts(t);
        check_refusals(t);
        check_chunk_text(t);
        check_instructions(t);
    }
    vp_tokenizer_close(t);
    check_packing();
    return done();
}
