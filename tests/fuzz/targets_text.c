/* Texts: JSONL and line records, read in order and mixed; rows of examples, mined anew by their scores. */
#include "lib/vecpipe.h"
#include "tests/fuzz/targets.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int read_records(int fd, vp_record_format format, bool skip_bad, vp_error *err) {
    vp_records *r = NULL;
    vp_buf text = {0};
    bool got = true;
    lseek(fd, 0, SEEK_SET);
    int status = vp_records_open(&r, fd, "records", format, skip_bad, err);
    while (!status) {
        vp_record record;
        uint8_t hash[16];
        status = vp_records_next(r, &record, &got, err);
        if (status || !got) break;
        status = vp_record_hash(&record, hash, err);
        text.len = 0;
        if (!status) status = vp_record_text(&record, &text, err);
        if (!status && vp_utf8_valid(text.data, text.len) != text.len) status = vp_fail(err, VP_BUG, "not UTF-8");
    }
    vp_buf_free(&text);
    vp_records_close(r);
    return status;
}

void records_seeds(fuzz_seeds *s) {
    fuzz_seed_text(
        s, "{\"id\":\"a\",\"text\":\"one\"}\n{\"_id\":12345678901234567890,\"title\":\"T\",\"text\":\"two\"}\n");
    fuzz_seed_text(
        s, "{\"id\": 1.50, \"text\": \"\\ud83d\\ude00 \\u00e9\", \"z\": {\"b\": [1, 2.0, null], \"a\": \"x\"}}\r\n"
           "{\"text\":\"no newline at the end\"}");
    fuzz_seed_text(s, "{\"_vp\":{\"jsonl\":1,\"index\":\"x\"}}\n{\"id\":\"a\",\"text\":\"one\"}\n"
                      "{\"_vp\":{\"end\":true,\"rows\":1}}\n");
}

static bool is_answer(int status) {
    return status == VP_OK || status == VP_DATA || status == VP_UPSTREAM;
}

/* As JSONL, as JSONL that skips, and as lines: all must survive, the first one's answer counts. */
int records_run(const vp_buf *input, vp_error *err) {
    int fd;
    vp_error skip = {0}, line = {0};
    fuzz_memory_file(input, &fd);
    int status = read_records(fd, VP_RECORDS_JSONL, false, err);
    int skipping = read_records(fd, VP_RECORDS_JSONL, true, &skip);
    int lines = read_records(fd, VP_RECORDS_LINES, true, &line);
    close(fd);
    if (is_answer(skipping) && is_answer(lines)) return status;
    *err = (vp_error){0};
    return vp_fail(err, VP_BUG, "skipping: %d %s; lines: %d %s", skipping, skip.text, lines, line.text);
}

static int mix_rows(const vp_mix_set *set, vp_mix_lines lines, vp_error *err) {
    const vp_mix_options o = {.set = set, .sets = 1, .batch = 1, .epochs = 1, .lines = lines};
    vp_mix *m = NULL;
    vp_buf row = {0};
    int status = vp_mix_open(&m, &o, err);
    for (int64_t step = 0; !status && step < vp_mix_steps(m); step++) {
        row.len = 0;
        status = vp_mix_row(m, step, 0, &row, err);
        if (!status && memchr(row.data, '\n', row.len) != row.data + row.len - 1)
            status = vp_fail(err, VP_BUG, "a row that is not one line");
    }
    vp_mix_close(m);
    vp_buf_free(&row);
    return status;
}

int mix_run(const vp_buf *input, vp_error *err) {
    int fd;
    vp_error why = {0};
    const vp_mix_set set = {.path = fuzz_memory_file(input, &fd), .weight = 1};
    int status = mix_rows(&set, VP_MIX_LINES_AUTO, err), lines = mix_rows(&set, VP_MIX_LINES_YES, &why);
    close(fd);
    if (is_answer(lines)) return status;
    *err = (vp_error){0};
    return vp_fail(err, VP_BUG, "lines: %d %s", lines, why.text);
}

void mine_seeds(fuzz_seeds *s) {
    fuzz_seed_text(s, "{\"query\":\"q\",\"positive\":\"p\",\"negative\":[\"a\",\"b\"],\"pos_scores\":[0.8],"
                      "\"neg_scores\":[0.5,1e-3],\"neg_ids\":[\"1\",\"2\"],\"id\":12345678901234567890}\n");
    fuzz_seed_text(s, "{\"query\":[\"instruction\",\"q\"],\"pos\":[[\"\",\"p\"],[\"i\",\"r\"]],\"neg\":[[\"i\",\"n\"]],"
                      "\"pos_scores\":[1,2],\"neg_scores\":[-1.5]}\r\n{\"query\":\"x\",\"pos\":[\"y\"],\"neg\":[],"
                      "\"pos_scores\":[1],\"neg_scores\":[]}");
    fuzz_seed_text(s,
                   "{\"_vp\":{\"jsonl\":1}}\n{\"query\":\"q\",\"positive_passages\":[{\"docid\":\"1\",\"title\":\"t\","
                   "\"text\":\"p\"}],\"negative_passages\":[{\"docid\":\"2\",\"text\":\"\\u00e9\"}],\"pos_scores\":[1],"
                   "\"neg_scores\":[0]}\n"
                   "{\"_vp\":{\"end\":true,\"rows\":1}}\n");
}

/* The texts of the rows, the rows by their scores, and those that skip what is bad: the second one's answer counts. */
int mine_run(const vp_buf *input, vp_error *err) {
    int fd, out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    vp_error why = {0}, skip = {0};
    vp_mine_counts counts = {0};
    vp_mine_options o = {.rule = {.kind = VP_MINE_NAIVE, .limit = 0, .n = 2}, .scores = true};
    fuzz_memory_file(input, &fd);
    const int texts = vp_mine_texts(fd, "rows", out, &why);
    lseek(fd, 0, SEEK_SET);
    const int status = vp_mine_reapply(&o, fd, "rows", out, &counts, err);
    lseek(fd, 0, SEEK_SET);
    o.skip_bad = true;
    const int skipping = vp_mine_reapply(&o, fd, "rows", out, &counts, &skip);
    close(fd);
    close(out);
    if (is_answer(texts) && is_answer(skipping)) return status;
    *err = (vp_error){0};
    return vp_fail(err, VP_BUG, "texts: %d %s; skipping: %d %s", texts, why.text, skipping, skip.text);
}
