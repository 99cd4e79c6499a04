/* Words: joined by a space, found again in tokens, and what is refused. */
#include "lib/text/words.h"
#include "tests/unit/tap.h"
#include <string.h>

static int join(vp_joined *w, const char *json, vp_error *err) {
    json_t *o = json_loads(json, 0, NULL);
    *err = (vp_error){0};
    const int status = vp_words_join(w, o, "input", 3, err);
    json_decref(o);
    return status;
}

static void test_join(void) {
    vp_joined w = {0};
    vp_error err;
    OK(!join(&w, "{\"words\":[\"AL-AIN\",\",\",\"\\u00e9t\\u00e9\"],\"labels\":[\"B\",\"O\",\"O\"]}", &err), "%s",
       err.text);
    const uint32_t *end = (const uint32_t *)(const void *)w.end.data;
    OK(w.text.len == 14 && memcmp(w.text.data, "AL-AIN , \xc3\xa9t\xc3\xa9", 14) == 0, "joined by one space");
    OK(w.end.len == 3 * sizeof *end && end[0] == 6 && end[1] == 8 && end[2] == 14, "ends are bytes");
    OK(!join(&w, "{\"words\":[]}", &err) && w.text.len == 0 && w.text.data, "no words: an empty text");
    static const char *const bad[][2] = {
        {"{}", "input:3: 'words' is not an array"},
        {"{\"words\":\"a b\"}", "input:3: 'words' is not an array"},
        {"{\"words\":[\"a\",1]}", "input:3: word 1 is not a string"},
        {"{\"words\":[\"\"]}", "input:3: word 0 is empty"},
        {"{\"words\":[\"a\"],\"labels\":[]}", "input:3: 'labels' is not an array of 1"},
        {"{\"words\":[\"a\"],\"labels\":\"O\"}", "input:3: 'labels' is not"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        OK(join(&w, bad[i][0], &err) == VP_DATA && strstr(err.text, bad[i][1]), "refused: %s", err.text);
    vp_joined_free(&w);
}

/* "ab c def": tokens [BOS] ab, " c", " d" ef, and one that spans two words. */
static void test_tokens(void) {
    static const uint32_t end[] = {2, 4, 8}, begin[] = {VP_NO_TEXT, 0, 1, 2, 4, 6, VP_NO_TEXT}, wide[] = {0, 5};
    static const int32_t want[] = {-1, 0, 0, 1, 2, 2, -1};
    int32_t got[7];
    vp_words_of_tokens(begin, 7, end, 3, got);
    OK(memcmp(got, want, sizeof want) == 0, "a token with the space before a word is that word's");
    vp_words_of_tokens(wide, 2, end, 3, got);
    OK(got[0] == 0 && got[1] == 2, "a token that spans two words is the first's");
}

int main(void) {
    test_join();
    test_tokens();
    return done();
}
