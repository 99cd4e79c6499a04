/* What a stream may and may not hold: one row a rule, records spelled as JSON, with the status and a part of the
 * message that must come. */
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"
#include <stdlib.h>

#define IDS(n, hex)         "\"ids\":{\"dtype\":\"I32\",\"shape\":[" #n "],\"data\":\"hex:" hex "\"}"
#define CU(n, hex)          "\"cu\":{\"dtype\":\"I32\",\"shape\":[" #n "],\"data\":\"hex:" hex "\"}"
#define TWO_ROWS            IDS(3, "010000000200000003000000") "," CU(3, "000000000200000003000000")
#define BATCH(seq, columns) "{\"kind\":\"batch\",\"seq\":" #seq ",\"columns\":{" columns "}}"
#define STEP(seq, keys)     "{\"kind\":\"batch\",\"seq\":" #seq ",\"columns\":{" TWO_ROWS "}," keys "}"
#define END(n)              "{\"kind\":\"end\",\"batches\":" #n "}"
#define DECLARED(columns)                                                                                              \
    "{\"vecpipe\":1,\"kind\":\"header\",\"model\":{},\"encoder\":{},\"columns\":{" columns "},\"history\":[]}"
#define ONE(columns) HEADER, BATCH(0, columns), END(1)

static const struct rule {
    const char *what;
    int status;
    const char *why; /* part of the message; frames that were handed out when status is VP_OK */
    const char *record[6];
} rules[] = {
    {"no rows", VP_OK, "3", {ONE(IDS(0, "") "," CU(1, "00000000"))}},
    {"no batches", VP_OK, "2", {HEADER, END(0)}},
    {"an empty row", VP_OK, "3", {ONE(IDS(0, "") "," CU(2, "0000000000000000"))}},
    {"no model, encoder, columns, history", VP_OK, "2", {"{\"vecpipe\":1,\"kind\":\"header\"}", END(0)}},
    {"an embedding alone",
     VP_OK,
     "3",
     {ONE("\"emb\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data\":\"hex:0000803f000080bf\"},\"id\":[1,2]")}},
    {"two streams in one", VP_OK, "4", {HEADER, BATCH(0, TWO_ROWS), END(1), HEADER, BATCH(0, TWO_ROWS), END(1)}},
    {"steps",
     VP_OK,
     "5",
     {HEADER, STEP(0, "\"step\":7"), STEP(1, "\"step\":7,\"last\":true"), STEP(2, "\"step\":8,\"last\":true"), END(3)}},

    {"another major version", VP_DATA, "frame 0 (byte 0): version vecpipe/2", {"{\"vecpipe\":2,\"kind\":\"header\"}"}},
    {"no version", VP_DATA, "without a version", {"{\"kind\":\"header\"}"}},
    {"no header", VP_DATA, "not a header", {BATCH(0, TWO_ROWS)}},
    {"an unknown kind", VP_DATA, "frame 1 (byte 67): its 'kind'", {HEADER, "{\"kind\":\"footer\"}"}},
    {"no map", VP_DATA, "holds no map", {HEADER, "[1]"}},
    {"model is no map", VP_DATA, "is not a map", {"{\"vecpipe\":1,\"kind\":\"header\",\"model\":3}"}},
    {"a batch without columns", VP_DATA, "without 'columns'", {HEADER, "{\"kind\":\"batch\",\"seq\":0}"}},
    {"a missing frame", VP_DATA, "'seq' is 1, not 0", {HEADER, BATCH(1, TWO_ROWS)}},
    {"a frame twice", VP_DATA, "'seq' is 0, not 1", {HEADER, BATCH(0, TWO_ROWS), BATCH(0, TWO_ROWS)}},
    {"a batch after the end", VP_DATA, "after the end", {HEADER, END(0), BATCH(0, TWO_ROWS)}},
    {"a second end", VP_DATA, "a second end", {HEADER, END(0), END(0)}},
    {"a wrong count of batches", VP_DATA, "counts 2 batches", {HEADER, BATCH(0, TWO_ROWS), END(2)}},
    {"another stream appended",
     VP_DATA,
     "another 'encoder'",
     {HEADER, END(0), "{\"vecpipe\":1,\"kind\":\"header\",\"encoder\":{\"space\":\"x\"}}", END(0)}},
    {"no end", VP_UPSTREAM, "frame 2 (byte", {HEADER, BATCH(0, TWO_ROWS)}},
    {"nothing", VP_UPSTREAM, "frame 0 (byte 0)", {NULL}},
    {"a header inside", VP_UPSTREAM, "before the end", {HEADER, BATCH(0, TWO_ROWS), HEADER, END(0)}},

    {"nine deep", VP_DATA, "8 deep", {"{\"vecpipe\":1,\"kind\":\"header\",\"x\":[[[[[[[[1]]]]]]]]}"}},
    {"eight deep", VP_OK, "2", {"{\"vecpipe\":1,\"kind\":\"header\",\"x\":[[[[[[[1]]]]]]]}", END(0)}},
    {"an unknown dtype", VP_DATA, "unknown dtype", {ONE("\"x\":{\"dtype\":\"F8\",\"shape\":[0],\"data\":\"hex:\"}")}},
    {"too few bytes", VP_DATA, "needs 12 bytes, not 8", {ONE(IDS(3, "0000000000000000"))}},
    {"five dimensions",
     VP_DATA,
     "1 to 4 dimensions",
     {ONE("\"x\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data\":\"hex:00\"}")}},
    {"a negative dimension", VP_DATA, "from 0", {ONE("\"x\":{\"dtype\":\"U8\",\"shape\":[-1],\"data\":\"hex:00\"}")}},
    {"a shape that overflows",
     VP_DATA,
     "too large",
     {ONE("\"x\":{\"dtype\":\"U8\",\"shape\":[4611686018427387904,16],\"data\":\"hex:\"}")}},
    {"data as text", VP_DATA, "not binary", {ONE("\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data\":\"a\"}")}},
    {"a column without data", VP_DATA, "needs dtype", {ONE("\"x\":{\"dtype\":\"U8\",\"shape\":[1]}")}},
    {"a column that is a number", VP_DATA, "neither a tensor", {ONE("\"x\":3")}},

    {"ids without cu", VP_DATA, "needs column 'cu'", {ONE(IDS(1, "01000000"))}},
    {"cu that begins at 1", VP_DATA, "cu[0] is not 0", {ONE(IDS(1, "01000000") "," CU(2, "0100000001000000"))}},
    {"cu that descends",
     VP_DATA,
     "cu[2] is smaller",
     {ONE(IDS(1, "01000000") "," CU(4, "00000000010000000000000001000000"))}},
    {"cu that ends early",
     VP_DATA,
     "'ids': dimension 0",
     {ONE(IDS(2, "0100000001000000") "," CU(2, "0000000001000000"))}},
    {"an empty cu", VP_DATA, "B+1", {ONE(CU(0, ""))}},
    {"a negative id", VP_DATA, "ids[0] = -1", {ONE(IDS(1, "ffffffff") "," CU(2, "0000000001000000"))}},
    {"an id outside the vocabulary",
     VP_DATA,
     "vocabulary of 10",
     {ONE(IDS(1, "0a000000") "," CU(2, "0000000001000000"))}},
    {"ids of another type",
     VP_DATA,
     "cannot be U8",
     {ONE("\"ids\":{\"dtype\":\"U8\",\"shape\":[0],\"data\":\"hex:\"}")}},
    {"identifiers as a tensor",
     VP_DATA,
     "cannot be U8",
     {ONE("\"id\":{\"dtype\":\"U8\",\"shape\":[0],\"data\":\"hex:\"}")}},
    {"an embedding as values", VP_DATA, "cannot be VALUES", {ONE("\"emb\":[1]")}},
    {"a list of vectors",
     VP_DATA,
     "'emb' has 1 dimensions",
     {ONE("\"emb\":{\"dtype\":\"I8\",\"shape\":[0],\"data\":\"hex:\"}")}},
    {"values that do not fit", VP_DATA, "does not fit (B 2", {ONE(TWO_ROWS ",\"id\":[1,2,3]")}},
    {"unknown values that do not fit", VP_DATA, "3 values, not 2", {ONE(TWO_ROWS ",\"tag\":[1,2,3]")}},
    {"an embedding of more rows",
     VP_DATA,
     "'emb': dimension 0 is 1",
     {ONE(TWO_ROWS ",\"emb\":{\"dtype\":\"I8\",\"shape\":[1,1],\"data\":\"hex:00\"}")}},
    {"an infinite F32",
     VP_DATA,
     "'emb': element 1 is not finite",
     {ONE("\"emb\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data\":\"hex:000080000000807f\"}")}},
    {"a NaN in F16", VP_DATA, "not finite", {ONE("\"x\":{\"dtype\":\"F16\",\"shape\":[1],\"data\":\"hex:017e\"}")}},
    {"a NaN in BF16", VP_DATA, "not finite", {ONE("\"x\":{\"dtype\":\"BF16\",\"shape\":[1],\"data\":\"hex:c17f\"}")}},
    {"a NaN in F64",
     VP_DATA,
     "not finite",
     {ONE("\"x\":{\"dtype\":\"F64\",\"shape\":[1],\"data\":\"hex:010000000000f0ff\"}")}},
    {"what was declared",
     VP_OK,
     "3",
     {DECLARED("\"x\":[\"F16\",[\"T\",2]]"),
      BATCH(0, TWO_ROWS ",\"x\":{\"dtype\":\"F16\",\"shape\":[3,2],\"data\":\"hex:000000000000000000000000\"}"),
      END(1)}},
    {"another width than declared",
     VP_DATA,
     "'emb': dimension 1 is 1",
     {DECLARED("\"emb\":[\"F32\",[\"B\",2]]"),
      BATCH(0, "\"emb\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data\":\"hex:00000000\"}"), END(1)}},
    {"another type than declared",
     VP_DATA,
     "cannot be F32",
     {DECLARED("\"emb\":[\"I8\",[\"B\",1]]"),
      BATCH(0, "\"emb\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data\":\"hex:00000000\"}"), END(1)}},
    {"a malformed declaration", VP_DATA, "declaration of column 'x'", {DECLARED("\"x\":[\"F32\"]"), END(0)}},

    {"last without step", VP_DATA, "no 'step'", {HEADER, STEP(0, "\"last\":true")}},
    {"a step that is not finished", VP_DATA, "inside step 3", {HEADER, STEP(0, "\"step\":3"), END(1)}},
    {"a step that changes too early",
     VP_DATA,
     "before the last",
     {HEADER, STEP(0, "\"step\":3"), STEP(1, "\"step\":4")}},
    {"a step that goes on",
     VP_DATA,
     "after its last",
     {HEADER, STEP(0, "\"step\":3,\"last\":true"), STEP(1, "\"step\":3,\"last\":true")}},
};

static void check(const struct rule *rule) {
    vp_buf stream = {0};
    vp_error err;
    int frames;
    for (size_t i = 0; i < 6 && rule->record[i]; i++) add_json(&stream, rule->record[i]);
    const int status = read_stream(stream.data ? stream.data : "", stream.len, 10, &frames, &err);
    if (rule->status == VP_OK)
        OK(status == VP_OK && frames == (int)strtol(rule->why, NULL, 10), "%s: %s", rule->what, err.text);
    else
        OK(status == rule->status && strstr(err.text, rule->why) && strstr(err.text, "frame "), "%s: %d %s", rule->what,
           status, err.text);
    vp_buf_free(&stream);
}

/* What JSON cannot spell: msgpack as hex, put into a frame after a header (or raw, as the stream itself). */
static const struct raw {
    const char *what, *why, *hex;
    bool framed;
} raws[] = {
    {"a key twice", "appears twice", "82 a1 61 01 a1 61 02", true},
    {"a key twice in another spelling", "appears twice", "82 a1 61 01 d9 01 61 02", true},
    {"a key twice deep inside", "appears twice", "81 a1 61 91 82 01 c0 cd 00 01 c0", true},
    {"bytes after the map", "1 bytes after the map", "81 a4 6b 69 6e 64 a3 65 6e 64 c0", true},
    {"an array that claims 2^32-1 elements", "not a complete", "81 a1 61 dd ff ff ff ff", true},
    {"a map that claims 2^31 pairs", "not a complete", "df 80 00 00 00 a1 61 01", true},
    {"a string past the end", "not a complete", "81 a1 61 db 00 00 00 05 61", true},
    {"the byte that msgpack does not use", "not a complete", "81 a1 61 c1", true},
    {"an infinite number", "not finite", "81 a1 61 ca 7f 80 00 00", true},
    {"a string that is not UTF-8", "UTF-8", "81 a1 61 a2 c3 28", true},
    {"a list as a key", "not a scalar", "81 91 01 01", true},
    {"a number as a key", "not a string", "82 a4 6b 69 6e 64 a3 65 6e 64 01 01", true},
    {"a key with a NUL", "not a string", "82 a4 6b 69 6e 64 a3 65 6e 64 a2 61 00 01", true},
    {"a column's name with a NUL", "not a string",
     "83 a4 6b 69 6e 64 a5 62 61 74 63 68 a3 73 65 71 00 a7 63 6f 6c 75 6d 6e 73 81 a2 78 00 90", true},
    {"nothing but a checksum", "not a complete", "", true},
    {"a payload shorter than its checksum", "too short", "c7 03 01 00 00 00", false},
    {"another ext type", "ext type 2", "c7 09 02 00 00 00 00 00 00 00 00 80", false},
    {"a negative ext type", "ext type -1", "d4 ff 00", false},
    {"a payload above the limit", "above the limit", "c9 10 00 00 01 01", false},
    {"another object", "not a vecpipe frame", "80", false},
    {"text", "not a vecpipe frame", "7b 22 61 22 3a 31 7d", false},
};

static void check_raw(const struct raw *raw) {
    vp_buf stream = {0}, bytes = bytes_of_hex(raw->hex);
    vp_error err = {0};
    int frames;
    add_json(&stream, HEADER);
    if (raw->framed)
        add_frame(&stream, bytes.data ? bytes.data : "", bytes.len);
    else
        vp_buf_add(&stream, bytes.data, bytes.len, &err);
    const int status = read_stream(stream.data, stream.len, 0, &frames, &err);
    OK(status == VP_DATA && strstr(err.text, raw->why) && strstr(err.text, "frame 1 (byte 67)"), "%s: %d %s", raw->what,
       status, err.text);
    vp_buf_free(&bytes);
    vp_buf_free(&stream);
}

int main(void) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) check(&rules[i]);
    for (size_t i = 0; i < sizeof raws / sizeof *raws; i++) check_raw(&raws[i]);
    return done();
}
