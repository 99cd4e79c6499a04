/* Records: JSONL and lines, spellings of identifiers, canonical meta, hashes, damaged input, the control lines. */
#include "lib/text/text.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

/* A descriptor from which `text` can be read. */
static int source(const char *text, size_t n) {
    FILE *f = tmpfile();
    if (!f || fwrite(text, 1, n, f) != n || fflush(f) != 0) abort();
    int fd = dup(fileno(f));
    fclose(f);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static void append(vp_buf *out, const char *s, size_t n) {
    vp_error err = {0};
    if (vp_buf_add(out, s ? s : "-", s ? n : 1, &err) || vp_buf_add(out, "|", 1, &err)) abort();
}

/* Every record as id|title|text|meta|number; and the final status. */
static int read_all(const char *input, size_t n, vp_record_format format, bool skip_bad, vp_buf *out, int64_t *skipped,
                    vp_error *err) {
    vp_records *r;
    vp_record record;
    bool got = true;
    int fd = source(input, n);
    out->len = 0;
    int status = vp_records_open(&r, fd, "input", format, skip_bad, err);
    while (!status && got) {
        status = vp_records_next(r, &record, &got, err);
        if (status || !got) break;
        append(out, record.id, record.id_len);
        append(out, record.title, record.title_len);
        append(out, record.text, record.text_len);
        append(out, record.meta, record.meta_len);
        char number[24];
        append(out, number, (size_t)snprintf(number, sizeof number, "%lld", (long long)record.number));
    }
    *skipped = vp_records_skipped(r);
    vp_records_close(r);
    close(fd);
    vp_error ignored = {0};
    if (vp_buf_add(out, "", 1, &ignored)) abort();
    return status;
}

static const struct {
    const char *what, *input, *want; /* want: records, or a part of the message */
    bool lines;
    int status;
} cases[] = {
    {"lines", "a\n\nb c", "-|-|a|-|1|-|-||-|2|-|-|b c|-|3|", true, 0},
    {"carriage returns and a byte order mark",
     "\xef\xbb\xbf"
     "a\r\nb\r\n",
     "-|-|a|-|1|-|-|b|-|2|", true, 0},
    {"no input", "", "", true, 0},
    {"plain record", "{\"id\":\"x\",\"text\":\"t\"}\n", "x|-|t|-|1|", false, 0},
    {"blank lines are no records", "\n \n{\"text\":\"t\"}\n\n", "-|-|t|-|3|", false, 0},
    {"_id and null", "{\"_id\":\"y\",\"id\":null,\"title\":null,\"text\":\"\"}", "y|-||{\"title\":null}|1|", false, 0},
    {"_id", "{\"_id\":\"y\",\"text\":\"\"}", "y|-||-|1|", false, 0},
    {"spelling of numbers", "{\"id\": 1.50 ,\"text\":\"t\"}\n{\"id\":123456789012345678901234567890,\"text\":\"t\"}",
     "1.50|-|t|-|1|123456789012345678901234567890|-|t|-|2|", false, 0},
    {"meta", "{\"z\": [1, {\"b\":1.0,\"a\":\"x , y\"}, []], \"text\":\"t\", \"title\":\"T\", \"a\":null, \"id\":1}",
     "1|T|t|{\"a\":null,\"title\":\"T\",\"z\":[1,{\"a\":\"x , y\",\"b\":1.0},[]]}|1|", false, 0},
    {"escapes", "{\"text\":\"\\u00e9\\ud83d\\ude00\\n\"}", "-|-|\xc3\xa9\xf0\x9f\x98\x80\n|-|1|", false, 0},
    {"no text", "{\"id\":\"x\"}", "input:1: no 'text'", false, VP_DATA},
    {"text of another type", "{\"text\":1}", "'text' is not a string", false, VP_DATA},
    {"id of another type", "{\"text\":\"\",\"id\":[]}", "'id' is not a string", false, VP_DATA},
    {"empty id", "{\"text\":\"\",\"id\":\"\"}", "empty", false, VP_DATA},
    {"not JSON", "{\"text\":\"a\"}\n{\"text\":", "input:2: not JSON", false, VP_DATA},
    {"an array", "[1]", "not a JSON object", false, VP_DATA},
    {"two keys", "{\"text\":\"a\",\"text\":\"b\"}", "duplicate", false, VP_DATA},
    {"U+0000 in an id", "{\"text\":\"\",\"id\":\"a\\u0000\"}", "U+0000", false, VP_DATA},
    {"half a surrogate pair", "{\"text\":\"\\ud800\"}", "input:1", false, VP_DATA},
    {"not UTF-8", "a\nb\xff\n", "input:2: not UTF-8 at byte 1", true, VP_DATA},
    {"not UTF-8 in JSON", "{\"text\":\"\xc0\x80\"}", "not UTF-8", false, VP_DATA},
    {"head and end", "{\"_vp\":{\"jsonl\":1}}\n{\"text\":\"a\"}\n{\"_vp\":{\"end\":true,\"rows\":1}}\n", "-|-|a|-|2|",
     false, 0},
    {"head without end", "{\"_vp\":{\"jsonl\":1}}\n{\"text\":\"a\"}\n", "closing _vp line is missing", false,
     VP_UPSTREAM},
    {"a last line cut off", "{\"_vp\":{\"jsonl\":1}}\n{\"text\":\"a", "closing _vp line is missing", false,
     VP_UPSTREAM},
    {"an end line without its newline",
     "{\"_vp\":{\"jsonl\":1}}\n{\"text\":\"a\"}\n{\"_vp\":{\"end\":true,\"rows\":1}}", "-|-|a|-|2|", false, 0},
    {"end with another count", "{\"_vp\":{\"jsonl\":1}}\n{\"_vp\":{\"end\":true,\"rows\":1}}\n", "other rows", false,
     VP_UPSTREAM},
    {"end without head", "{\"text\":\"a\"}\n{\"_vp\":{\"end\":true,\"rows\":1}}\n", "without the head", false, VP_DATA},
    {"head in the middle", "{\"text\":\"a\"}\n{\"_vp\":{\"jsonl\":1}}\n", "not the first line", false, VP_DATA},
    {"another version", "{\"_vp\":{\"jsonl\":2}}\n", "another version", false, VP_DATA},
    {"lines after the end", "{\"_vp\":{\"jsonl\":1}}\n{\"_vp\":{\"end\":true,\"rows\":0}}\n{\"text\":\"\"}",
     "more lines", false, VP_DATA},
};

static void check_cases(void) {
    vp_buf out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vp_error err = {0};
        int64_t skipped;
        int status = read_all(cases[i].input, strlen(cases[i].input),
                              cases[i].lines ? VP_RECORDS_LINES : VP_RECORDS_JSONL, false, &out, &skipped, &err);
        bool right = status == cases[i].status &&
                     (status ? strstr(err.text, cases[i].want) != NULL : strcmp(out.data, cases[i].want) == 0);
        OK(right, "%s: %d %s", cases[i].what, status, status ? err.text : right ? "" : out.data);
    }
    vp_buf_free(&out);
}

static void check_skipping(void) {
    static const char input[] = "{\"text\":\"a\"}\nx\n{}\n\xff\n{\"text\":\"b\"}\n";
    vp_buf out = {0};
    vp_error err = {0};
    int64_t skipped;
    int status = read_all(input, sizeof input - 1, VP_RECORDS_JSONL, true, &out, &skipped, &err);
    OK(status == 0 && skipped == 3 && strcmp(out.data, "-|-|a|-|1|-|-|b|-|5|") == 0,
       "bad records are counted: %d %lld %s", status, (long long)skipped, out.data);
    vp_buf_free(&out);
}

/* Depth is bounded by the parser, lines by 64 MiB. */
static void check_limits(void) {
    size_t n = (size_t)65 << 20;
    char *big = malloc(n);
    vp_buf out = {0};
    int64_t skipped;
    if (!big) abort();
    vp_error err = {0}, deep = {0};
    memset(big, 'a', n);
    OK(read_all(big, n, VP_RECORDS_LINES, false, &out, &skipped, &err) == VP_DATA, "a line of 65 MiB: %s", err.text);
    memset(big, '[', 100000);
    memcpy(big, "{\"text\":", 8);
    OK(read_all(big, 100000, VP_RECORDS_JSONL, false, &out, &skipped, &deep) == VP_DATA, "deep JSON: %s", deep.text);
    free(big);
    vp_buf_free(&out);
}

/* Against XXH3 of bytes that are laid out here by hand. */
static void check_hash(void) {
    vp_record r = {.title = "ab", .title_len = 2, .text = "c", .text_len = 1};
    static const char bytes[] = "\2\0\0\0\0\0\0\0ab\1\0\0\0\0\0\0\0c";
    XXH128_canonical_t want;
    uint8_t got[16];
    vp_error err = {0};
    vp_buf text = {0};
    XXH128_canonicalFromHash(&want, XXH3_128bits(bytes, sizeof bytes - 1));
    OK(vp_record_hash(&r, got, &err) == 0 && memcmp(got, want.digest, 16) == 0,
       "hash of length-prefixed title and text");
    OK(vp_record_text(&r, &text, &err) == 0 && text.len == 4 && memcmp(text.data, "ab c", 4) == 0,
       "title, a space, text");
    text.len = 0;
    r.title = NULL;
    r.title_len = 0;
    OK(vp_record_text(&r, &text, &err) == 0 && text.len == 1, "only the text without a title");
    vp_buf_free(&text);
}

/* A line is handed out as soon as it is complete. */
static void check_pipe(void) {
    int ends[2];
    vp_records *r = NULL;
    vp_record record;
    vp_error err = {0};
    bool got = false, more = false;
    if (pipe(ends) != 0 || write(ends[1], "first line\nse", 13) != 13) abort();
    int status = vp_records_open(&r, ends[0], "pipe", VP_RECORDS_LINES, false, &err);
    if (!status) status = vp_records_next(r, &record, &got, &err);
    OK(status == 0 && got && record.text_len == 10, "the first line comes before the second is there");
    OK(!vp_records_ready(r, 0), "half a line is not ready");
    if (write(ends[1], "co", 2) != 2) abort();
    OK(!vp_records_ready(r, 0), "nor when more of it comes");
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && !got && more, "it is not waited for");
    if (write(ends[1], "nd\n", 3) != 3) abort();
    OK(vp_records_ready(r, 0), "a whole one is");
    close(ends[1]);
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && got && record.text_len == 6 && memcmp(record.text, "second", 6) == 0, "and is put together");
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && !got && !more, "then the input ends");
    vp_records_close(r);
    close(ends[0]);
}

/* The same through zstd, where bytes may be there and no text in them. */
static void check_zstd(void) {
    static const char text[] = "first line\nsecond\n";
    uint8_t packed[256];
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_outBuffer out = {.dst = packed, .size = sizeof packed};
    size_t cut[3]; /* behind "first line\nsec"; within the rest; behind it, before the frame's end */
    ZSTD_inBuffer in = {.src = text, .size = 14};
    if (!zstd || ZSTD_compressStream2(zstd, &out, &in, ZSTD_e_flush) != 0) abort();
    cut[0] = out.pos;
    in.size = sizeof text - 1;
    if (ZSTD_compressStream2(zstd, &out, &in, ZSTD_e_flush) != 0) abort();
    cut[1] = cut[0] + 2;
    cut[2] = out.pos;
    int ends[2];
    vp_records *r = NULL;
    vp_record record;
    vp_error err = {0};
    bool got = false, more = false;
    if (pipe(ends) != 0 || write(ends[1], packed, 2) != 2) abort();
    int status = vp_records_open(&r, ends[0], "pipe", VP_RECORDS_LINES, false, &err);
    OK(status == 0 && !vp_records_ready(r, 0), "half of the magic number is not ready");
    if (write(ends[1], packed + 2, cut[0] - 2) != (ssize_t)cut[0] - 2) abort();
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && got && record.text_len == 10, "a line is there before its frame has ended");
    OK(!vp_records_ready(r, 0), "half a line is not ready");
    if (write(ends[1], packed + cut[0], cut[1] - cut[0]) != (ssize_t)(cut[1] - cut[0])) abort();
    OK(!vp_records_ready(r, 0), "nor are bytes that make up no text");
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && !got && more, "they are not waited for");
    if (write(ends[1], packed + cut[1], cut[2] - cut[1]) != (ssize_t)(cut[2] - cut[1])) abort();
    OK(vp_records_ready(r, 0), "the rest of the line is");
    status = vp_records_next_here(r, &record, &got, &more, &err);
    OK(status == 0 && got && record.text_len == 6 && memcmp(record.text, "second", 6) == 0, "and is put together");
    close(ends[1]);
    OK(vp_records_ready(r, 0), "the end of the input is ready");
    for (int i = 0; i < 2; i++) {
        status = vp_records_next(r, &record, &got, &err);
        OK(status == VP_UPSTREAM, "cut off, it is an upstream's death, whenever it is asked for");
    }
    vp_records_close(r);
    close(ends[0]);
    ZSTD_freeCCtx(zstd);
}

int main(void) {
    check_cases();
    check_skipping();
    check_limits();
    check_hash();
    check_pipe();
    check_zstd();
    return done();
}
