/* Pairs of a query and a text that are known to belong together, from a file of rows: positives of other rows with the
 * same query, sentence pairs that annotators scored. */
#include "lib/mine/private.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void join(uint64_t a, uint64_t b, char pair[16]) {
    memcpy(pair, &a, sizeof a);
    memcpy(pair + sizeof a, &b, sizeof b);
}

bool vp_mine_known(const vp_idset *pairs, uint64_t query, uint64_t text) {
    char pair[16];
    int64_t number;
    join(query, text, pair);
    return vp_idset_find(pairs, pair, sizeof pair, &number);
}

/* A pair holds both ways: sentence pairs have no side. */
static int add_pair(vp_idset *pairs, uint64_t a, uint64_t b, vp_error *err) {
    char pair[16];
    int64_t earlier;
    join(a, b, pair);
    VP_TRY(vp_idset_add(pairs, pair, sizeof pair, 0, &earlier, err));
    join(b, a, pair);
    return vp_idset_add(pairs, pair, sizeof pair, 0, &earlier, err);
}

/* An identifier stands for all texts of its record, so that copies of them count, too. */
static int add_record(vp_idset *pairs, uint64_t query, vp_mine_name id, const vp_catalogue *c, vp_error *err) {
    for (int32_t row = vp_catalogue_by_name(c, id.s, id.n); row >= 0; row = c->text[row].next)
        VP_TRY(add_pair(pairs, query, c->text[row].key, err));
    return VP_OK;
}

static int add_row(const vp_mine *m, vp_idset *pairs, vp_mine_row *r, const vp_record *line, vp_error *err) {
    VP_TRY(vp_mine_row_read(r, (vp_json_text){line->line, line->line_len}, (vp_mine_name){0}, (vp_mine_name){0}, err));
    const json_t *score = json_object_get(r->object, "score");
    if (json_is_number(score) && json_number_value(score) <= m->o->most) return VP_OK;
    for (size_t i = 0; i < r->pos_ids; i++)
        for (size_t t = 0; t < m->teachers; t++) VP_TRY(add_record(pairs, r->key, r->pos_id[i], &m->teacher[t].c, err));
    for (size_t i = 0; i < r->positives; i++) {
        const vp_example_text *t = vp_mine_row_positive(r, i);
        uint64_t key;
        VP_TRY(vp_mine_key(t->text, t->text_len, &r->scratch, &key, err));
        VP_TRY(add_pair(pairs, r->key, key, err));
    }
    return VP_OK;
}

static int add_rows(vp_mine *m, int fd, const char *path, vp_error *err) {
    vp_records *in;
    vp_record line;
    vp_mine_row row = {0};
    bool got;
    VP_TRY(vp_records_open(&in, fd, path, VP_RECORDS_OBJECTS, false, err));
    int status;
    while (!(status = vp_records_next(in, &line, &got, err)) && got) {
        vp_error why = {0};
        status = add_row(m, &m->known, &row, &line, &why);
        if (status) vp_fail(err, status, "%s:%lld: %s", path, (long long)line.number, why.text);
        if (status) break;
    }
    vp_mine_row_free(&row);
    vp_records_close(in);
    return status;
}

int vp_mine_known_read(vp_mine *m, vp_error *err) {
    const char *path = m->o->known;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return vp_fail_errno(err, "cannot open '%s'", path);
    const int status = add_rows(m, fd, path, err);
    close(fd);
    return status;
}
