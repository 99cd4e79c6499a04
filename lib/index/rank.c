/* Exact ranked lists from sources of best rows, and their fusion. */
#include "lib/index/rank.h"
#include <stdlib.h>
#include <string.h>

void vp_found_free(vp_found_list *l) {
    free(l->item);
    vp_buf_free(&l->strings);
    *l = (vp_found_list){0};
}

static int add_found(vp_found_list *l, vp_found f, const char *id, const char *parent, vp_error *err) {
    VP_TRY(vp_grow(&l->item, &l->cap, l->n, sizeof *l->item, "hits", err));
    f.id = l->strings.len;
    VP_TRY(vp_buf_add(&l->strings, id, f.id_len, err));
    f.parent = l->strings.len;
    if (parent) VP_TRY(vp_buf_add(&l->strings, parent, f.parent_len, err));
    l->item[l->n++] = f;
    return VP_OK;
}

static int look_up(vp_index *x, const vp_hit_source *source, vp_raw_hit raw, vp_found_list *l, vp_error *err) {
    sqlite3_stmt *s;
    bool row;
    VP_TRY(source->entry(source->ctx, raw.key, &s, err));
    VP_TRY(vp_store_step(x, s, &row, err));
    if (!row) return vp_store_damaged(x, err, "a live row has no entry");
    const char *id, *parent;
    vp_found f = {.score = raw.score, .n = sqlite3_column_int64(s, 0)};
    VP_TRY(vp_store_text(x, s, 1, &id, &f.id_len, err));
    VP_TRY(vp_store_text(x, s, 2, &parent, &f.parent_len, err));
    if (!id) return vp_store_damaged(x, err, "an entry has no id");
    if (!parent) f.parent_len = SIZE_MAX;
    int status = add_found(l, f, id, parent, err);
    sqlite3_reset(s);
    return status;
}

static int compare_bytes(const char *a, size_t n, const char *b, size_t m) {
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int compare_found(const void *a, const void *b, void *strings) {
    const vp_found *f = a, *g = b;
    const char *s = strings;
    if (f->score != g->score) return f->score > g->score ? -1 : 1;
    return compare_bytes(s + f->id, f->id_len, s + g->id, g->id_len);
}

static void key_of(const vp_found_list *l, const vp_found *f, bool by_parent, const char **key, size_t *n) {
    bool parent = by_parent && f->parent_len != SIZE_MAX;
    *key = l->strings.data + (parent ? f->parent : f->id);
    *n = parent ? f->parent_len : f->id_len;
}

/* Sort, and keep the first row of each record if asked. */
static int order(vp_found_list *l, bool by_parent, vp_error *err) {
    if (l->n) qsort_r(l->item, l->n, sizeof *l->item, compare_found, l->strings.data);
    if (!by_parent) return VP_OK;
    vp_idset records = {0};
    size_t kept = 0;
    int status = VP_OK;
    for (size_t i = 0; i < l->n && !status; i++) {
        const char *key;
        size_t n;
        int64_t earlier = 0;
        key_of(l, &l->item[i], true, &key, &n);
        status = vp_idset_add(&records, key, n, 0, &earlier, err);
        if (earlier < 0) l->item[kept++] = l->item[i];
    }
    l->n = kept;
    vp_idset_free(&records);
    return status;
}

int vp_rank(vp_index *x, const vp_hit_source *source, int64_t want, bool by_parent, vp_found_list *out, vp_error *err) {
    /* one more than wanted shows whether the last one is tied; a record has a few chunks */
    for (int64_t fetch = by_parent ? 4 * want + 1 : want + 1;; fetch *= 4) {
        const vp_raw_hit *raw;
        int64_t n;
        VP_TRY(source->fetch(source->ctx, fetch, &raw, &n, err));
        bool all = n < fetch;
        /* rows tied with the last one may be missing: none of them counts yet */
        int64_t usable = n;
        while (!all && usable && raw[usable - 1].score == raw[n - 1].score) usable--;
        if (!all && usable < want) continue;
        if (!by_parent && usable > want) { /* ids of what cannot be among the wanted are not looked up */
            int64_t last = want;
            while (last < usable && raw[last].score == raw[want - 1].score) last++;
            usable = last;
        }
        out->n = out->strings.len = 0;
        for (int64_t i = 0; i < usable; i++) VP_TRY(look_up(x, source, raw[i], out, err));
        VP_TRY(order(out, by_parent, err));
        if (all || (int64_t)out->n >= want) break;
    }
    if ((int64_t)out->n > want) out->n = (size_t)want;
    return VP_OK;
}

int vp_rank_fuse(const vp_found_list *a, const vp_found_list *b, int64_t want, bool by_parent, vp_found_list *out,
                 vp_error *err) {
    vp_idset place = {0}; /* key -> index in out */
    int status = VP_OK;
    out->n = out->strings.len = 0;
    for (int list = 0; list < 2; list++) {
        const vp_found_list *l = list ? b : a;
        for (size_t i = 0; i < l->n && !status; i++) {
            const vp_found *f = &l->item[i];
            vp_found g = *f;
            const char *key;
            size_t n;
            int64_t earlier = -1;
            g.score = 1.0 / (60.0 + (double)(i + 1));
            key_of(l, f, by_parent, &key, &n);
            status = vp_idset_add(&place, key, n, (int64_t)out->n, &earlier, err);
            if (status) break;
            if (earlier >= 0)
                out->item[earlier].score += g.score;
            else
                status = add_found(out, g, l->strings.data + f->id,
                                   f->parent_len == SIZE_MAX ? NULL : l->strings.data + f->parent, err);
        }
    }
    vp_idset_free(&place);
    if (!status) status = order(out, false, err);
    if ((int64_t)out->n > want) out->n = (size_t)want;
    return status;
}
