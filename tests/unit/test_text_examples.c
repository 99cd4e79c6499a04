/* Training examples out of JSON records, in the spellings of several data sets. */
#include "lib/text/text.h"
#include "tests/unit/stream_support.h"
#include "tests/unit/tap.h"

static const struct {
    const char *what, *line, *want; /* want: role:instruction|text=score; or a part of the message */
    int status;
} cases[] = {
    {"a query and its texts", "{\"query\":\"q\",\"positive\":[\"a\",\"b\"],\"negative\":\"c\"}",
     "0:-|q=0;1:-|a=0;1:-|b=0;2:-|c=0;", VP_OK},
    {"a passage and the one after it", "{\"input\":\"q\",\"output_summarize\":\"a\",\"output_predict\":\"b\"}",
     "0:-|q=0;1:-|a=0;1:-|b=0;", VP_OK},
    {"a passage that rebuilds itself", "{\"input\":\"q\",\"output_predict\":\"b\"}", "0:-|q=0;1:-|q=0;1:-|b=0;", VP_OK},
    {"the last passage", "{\"input\":\"q\",\"output_summarize\":\"a\",\"output_predict\":null}", "0:-|q=0;1:-|a=0;",
     VP_OK},
    {"a passage that is none", "{\"input\":1,\"output_predict\":\"b\"}", "'input' is neither", VP_DATA},
    {"no negatives", "{\"query\":\"q\",\"positive\":\"a\",\"negative\":null}", "0:-|q=0;1:-|a=0;", VP_OK},
    {"pos and neg with instructions", "{\"query\":[\"i\",\"q\"],\"pos\":[[\"\",\"a\"]],\"neg\":[[\"j\",\"b\"],\"c\"]}",
     "0:i|q=0;1:|a=0;2:j|b=0;2:-|c=0;", VP_OK},
    {"an instruction of its own", "{\"query\":\"q\",\"instruction\":\"i\",\"pos\":\"a\"}", "0:i|q=0;1:-|a=0;", VP_OK},
    {"scores", "{\"query\":\"q\",\"pos\":[\"a\"],\"neg\":[\"b\"],\"scores\":[2,0.5]}",
     "0:-|q=0;1:-|a=2;2:-|b=0.5;scored", VP_OK},
    {"two lists of scores",
     "{\"query\":\"q\",\"pos\":[\"a\"],\"neg\":[\"b\"],\"pos_scores\":[2],\"neg_scores\":[-1e3]}",
     "0:-|q=0;1:-|a=2;2:-|b=-1000;scored", VP_OK},
    {"documents with titles",
     "{\"query\":\"q\",\"positive_passages\":[{\"docid\":\"1\",\"title\":\"t\",\"text\":\"a\"}],"
     "\"negative_passages\":[{\"title\":\"\",\"text\":\"b\"},{\"title\":null,\"text\":\"c\"},{\"title\":\"u\",\"text\":"
     "\"d\"}]}",
     "0:-|q=0;1:-|t a=0;2:-|b=0;2:-|c=0;2:-|u d=0;", VP_OK},
    {"FlagEmbedding's prompt", "{\"query\":\"q\",\"prompt\":\"i\",\"pos\":[\"a\"],\"neg\":[]}", "0:i|q=0;1:-|a=0;",
     VP_OK},
    {"sentences", "{\"sentence1\":\"q\",\"sentence2\":\"a\",\"score\":3.5}", "0:-|q=0;1:-|a=3.5;scored", VP_OK},
    {"a text is a text", "{\"text\":\"t\",\"query\":\"q\"}", "t", VP_OK},
    {"no positive", "{\"query\":\"q\",\"negative\":\"a\"}", "no 'positive'", VP_DATA},
    {"an empty list", "{\"query\":\"q\",\"pos\":[]}", "no 'pos'", VP_DATA},
    {"a number for a text", "{\"query\":\"q\",\"pos\":[1]}", "'pos' is neither", VP_DATA},
    {"three parts", "{\"query\":[\"i\",\"q\",\"x\"],\"pos\":\"a\"}", "'query' is neither", VP_DATA},
    {"too few scores", "{\"query\":\"q\",\"pos\":[\"a\",\"b\"],\"scores\":[1]}", "'scores' is not a list of 2",
     VP_DATA},
    {"one score for two", "{\"query\":\"q\",\"pos\":[\"a\",\"b\"],\"score\":1}", "one 'score' for 2", VP_DATA},
    {"half of the scores", "{\"query\":\"q\",\"pos\":\"a\",\"neg\":\"b\",\"pos_scores\":[1]}", "without 'neg_scores'",
     VP_DATA},
    {"a score that is none", "{\"query\":\"q\",\"pos\":\"a\",\"score\":\"1\"}", "other than a number", VP_DATA},
    {"a score beyond f32", "{\"query\":\"q\",\"pos\":\"a\",\"score\":1e300}", "other than a number", VP_DATA},
    {"an instruction that is none", "{\"query\":\"q\",\"pos\":\"a\",\"instruction\":1}", "'instruction'", VP_DATA},
    {"a prompt that is none", "{\"query\":\"q\",\"pos\":\"a\",\"prompt\":1}", "'prompt'", VP_DATA},
    {"a document without text", "{\"query\":\"q\",\"positive_passages\":[{\"docid\":\"1\"}]}",
     "'positive_passages' has no 'text'", VP_DATA},
    {"a title that is none", "{\"query\":\"q\",\"pos\":{\"title\":1,\"text\":\"a\"}}", "'title' that is no string",
     VP_DATA},
    {"neither", "{\"title\":\"t\"}", "no 'text'", VP_DATA},
};

static int spell(const vp_record *r, vp_buf *out, vp_error *err) {
    if (!r->example) return vp_buf_add(out, r->text, r->text_len, err);
    for (size_t i = 0; i < r->example->n; i++) {
        const vp_example_text *t = &r->example->text[i];
        VP_TRY(vp_buf_printf(out, err, "%u:%.*s|%.*s=%g;", t->role, t->instruction ? (int)t->instruction_len : 1,
                             t->instruction ? t->instruction : "-", (int)t->text_len, t->text, (double)t->score));
    }
    return vp_buf_printf(out, err, "%s", r->example->scored ? "scored" : "");
}

static void check_case(size_t i, vp_record_format format) {
    vp_records *records;
    vp_record r;
    vp_error err = {0};
    vp_buf out = {0};
    bool got;
    const int fd = fd_of(cases[i].line, strlen(cases[i].line));
    int status = vp_records_open(&records, fd, "input", format, false, &err);
    if (!status) status = vp_records_next(records, &r, &got, &err);
    if (!status) status = spell(&r, &out, &err);
    if (format == VP_RECORDS_JSONL)
        OK(status == VP_DATA && strstr(err.text, "no 'text'"), "%s, where texts are wanted: %s", cases[i].what,
           err.text);
    else if (cases[i].status)
        OK(status == cases[i].status && strstr(err.text, cases[i].want) && strstr(err.text, "input:1: "), "%s: %s",
           cases[i].what, err.text);
    else
        OK(!status && out.len == strlen(cases[i].want) && memcmp(out.data, cases[i].want, out.len) == 0, "%s: %.*s %s",
           cases[i].what, (int)out.len, out.len ? out.data : "", err.text);
    vp_records_close(records);
    vp_buf_free(&out);
    close(fd);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(i, VP_RECORDS_EXAMPLES);
    check_case(0, VP_RECORDS_JSONL);
    return done();
}
