/* Whole steps out of a stream: what is collected, what is refused, and gradient units. */
#include "lib/train/steps.h"
#include "lib/text/text.h"
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"

#define END "{\"kind\":\"end\"}"
/* A batch of two rows of no tokens; `row` and `unit` as hex of their last bytes. */
#define BATCH(seq, keys, r0, r1, u0, u1)                                                                               \
    "{\"kind\":\"batch\",\"seq\":" seq "," keys ",\"columns\":{\"row\":{\"dtype\":\"I64\",\"shape\":[2],\"data\":"     \
    "\"hex:" r0 "00000000000000" r1 "00000000000000\"},\"unit\":{\"dtype\":\"I32\",\"shape\":[2],\"data\":\"hex:" u0   \
    "000000" u1 "000000\"}}}"
#define BARE(seq, keys)                                                                                                \
    "{\"kind\":\"batch\",\"seq\":" seq "," keys ",\"columns\":{\"row\":{\"dtype\":\"I64\",\"shape\":[1],\"data\":"     \
    "\"hex:0900000000000000\"}}}"

static const struct {
    const char *what, *records[6];
    int status;
    const char *want; /* steps as "step:rows/frames/units/weight_sum:first row in order;", or a part of the message */
} cases[] = {
    {"no steps", {END}, VP_OK, ""},
    {"one frame is a step",
     {BATCH("0", "\"step\":3,\"rows\":2,\"last\":true,\"weight_sum\":2.5", "05", "01", "00", "01"), END},
     VP_OK,
     "3:2/1/2/2.5:1;"},
    {"two frames, then another step",
     {BATCH("0", "\"step\":3,\"rows\":4", "05", "01", "00", "00"),
      BATCH("1", "\"step\":3,\"rows\":4,\"last\":true", "00", "02", "01", "02"),
      BARE("2", "\"step\":9,\"rows\":1,\"last\":true"), END},
     VP_OK,
     "3:4/2/3/0:0;9:1/1/0/0:9;"},
    {"no step", {BARE("0", "\"rows\":1"), END}, VP_DATA, "no 'step'"},
    {"a step that is too large",
     {BARE("0", "\"step\":4294967296,\"rows\":1,\"last\":true"), END},
     VP_DATA,
     "above 4294967295"},
    {"steps that go back",
     {BARE("0", "\"step\":3,\"rows\":1,\"last\":true"), BARE("1", "\"step\":2,\"rows\":1,\"last\":true"), END},
     VP_DATA,
     "step 2 after step 3"},
    {"a frame after the last one",
     {BARE("0", "\"step\":3,\"rows\":1,\"last\":true"), BARE("1", "\"step\":3,\"rows\":1,\"last\":true"), END},
     VP_DATA,
     "after its last one"},
    {"rows that are not all there",
     {BARE("0", "\"step\":3,\"rows\":2,\"last\":true"), END},
     VP_DATA,
     "'rows' is not 1"},
    {"no rows", {BARE("0", "\"step\":3,\"last\":true"), END}, VP_DATA, "'rows' is not 1"},
    {"a row twice",
     {BATCH("0", "\"step\":3,\"rows\":2,\"last\":true", "05", "05", "00", "01"), END},
     VP_DATA,
     "'row' 5 twice"},
    {"units that leave one out",
     {BATCH("0", "\"step\":3,\"rows\":2,\"last\":true", "05", "01", "00", "02"), END},
     VP_DATA,
     "whole units"},
    {"a unit over two frames",
     {BATCH("0", "\"step\":3,\"rows\":4", "05", "01", "00", "00"),
      BATCH("1", "\"step\":3,\"rows\":4,\"last\":true", "00", "02", "00", "01"), END},
     VP_DATA,
     "whole units"},
    {"units in one frame only",
     {BATCH("0", "\"step\":3,\"rows\":3", "05", "01", "00", "00"), BARE("1", "\"step\":3,\"rows\":3,\"last\":true"),
      END},
     VP_DATA,
     "some frames"},
    {"another sum of weights",
     {BARE("0", "\"step\":3,\"rows\":3,\"weight_sum\":1"),
      BATCH("1", "\"step\":3,\"rows\":3,\"last\":true,\"weight_sum\":2", "05", "01", "00", "00"), END},
     VP_DATA,
     "'weight_sum'"},
    {"a negative sum of weights",
     {BARE("0", "\"step\":3,\"rows\":1,\"last\":true,\"weight_sum\":-1"), END},
     VP_DATA,
     "'weight_sum'"},
    {"an end inside a step", {BARE("0", "\"step\":3,\"rows\":2"), END}, VP_DATA, "inside step 3"},
    {"cut off inside a step", {BARE("0", "\"step\":3,\"rows\":2")}, VP_UPSTREAM, "upstream"},
};

static int read_steps(const vp_buf *bytes, vp_buf *out, vp_error *err) {
    vp_reader *r;
    vp_steps *s = NULL;
    vp_step *step;
    vp_frame *f;
    const int fd = fd_of(bytes->data, bytes->len);
    int status = vp_reader_open(&r, fd, "input", err);
    if (!status) status = vp_reader_next(r, &f, err);
    if (!status) status = vp_steps_open(&s, r, err);
    while (!status && !(status = vp_steps_next(s, &step, err)) && step)
        status = vp_buf_printf(out, err, "%lld:%lld/%zu/%d/%g:%lld;", (long long)step->step, (long long)step->B,
                               step->frames, step->units, step->weight_sum, (long long)step->order[0].row);
    if (!status) OK(vp_steps_end(s) != NULL, "an end record");
    vp_steps_close(s);
    vp_reader_close(r);
    close(fd);
    return status;
}

static void check_case(size_t i) {
    vp_buf bytes = {0}, out = {0};
    vp_error err = {0};
    add_json(&bytes, HEADER);
    for (size_t k = 0; k < 6 && cases[i].records[k]; k++) add_json(&bytes, cases[i].records[k]);
    const int status = read_steps(&bytes, &out, &err);
    OK(status == cases[i].status, "%s: status %d %s", cases[i].what, status, err.text);
    if (cases[i].status == VP_OK)
        OK(out.len == strlen(cases[i].want) && (!out.len || memcmp(out.data, cases[i].want, out.len) == 0), "%s: %.*s",
           cases[i].what, (int)out.len, out.len ? out.data : "");
    else
        OK(strstr(err.text, cases[i].want) != NULL, "%s: it says '%s'", cases[i].what, err.text);
    vp_buf_free(&bytes);
    vp_buf_free(&out);
}

static void check_units(void) {
    const int32_t cu[] = {0, 500, 512, 513, 513, 1200, 1200, 1201}, want[] = {7, 7, 8, 8, 9, 10, 10};
    int32_t unit[7];
    OK(vp_units_assign(cu, 7, 7, unit) == 11, "the number after the last unit");
    OK(memcmp(unit, want, sizeof want) == 0,
       "runs of whole rows of at most 512 tokens, a longer one alone: %d %d %d %d %d %d %d", unit[0], unit[1], unit[2],
       unit[3], unit[4], unit[5], unit[6]);
    OK(vp_units_assign(cu, 0, 3, unit) == 3, "no rows, no unit");
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(i);
    check_units();
    return done();
}
