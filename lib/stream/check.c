/* What must hold in a batch: shapes that fit each other, the column table and the header's declarations; offsets that
 * ascend; ids inside the vocabulary; finite numbers. */
#include "lib/stream/private.h"

typedef struct sizes {
    int64_t M; /* marked positions, -1: no such column yet */
    bool has_cu;
} sizes;

static bool dim_fits(const vp_frame *f, sizes *s, int64_t want, int64_t got) {
    if (want >= 0) return got == want;
    switch (-1 - want) {
    case VP_SYMBOL_B:
        return got == f->B;
    case VP_SYMBOL_B1:
        return got == f->B + 1;
    case VP_SYMBOL_T:
        return got == f->T;
    case VP_SYMBOL_M:
        if (s->M < 0) s->M = got;
        return got == s->M;
    default:
        return true;
    }
}

static int check_fit(const vp_frame *f, const vp_column *c, sizes *s, const vp_column_pattern *p, vp_error *err) {
    if (c->is_values != p->values || (!p->values && !(p->dtypes >> c->dtype & 1)))
        return vp_frame_fail(f, VP_DATA, err, "column '%s' cannot be %s", c->name,
                             c->is_values ? "VALUES" : vp_dtype_name(c->dtype));
    if (c->ndim != p->ndim)
        return vp_frame_fail(f, VP_DATA, err, "column '%s' has %d dimensions, not %d", c->name, c->ndim, p->ndim);
    for (int i = 0; i < c->ndim; i++) {
        if (p->dim[i] == -1 - VP_SYMBOL_T && !s->has_cu)
            return vp_frame_fail(f, VP_DATA, err, "column '%s' needs column 'cu'", c->name);
        if (!dim_fits(f, s, p->dim[i], c->shape[i]))
            return vp_frame_fail(f, VP_DATA, err,
                                 "column '%s': dimension %d is %lld, which does not fit (B %lld, T %lld)", c->name, i,
                                 (long long)c->shape[i], (long long)f->B, (long long)f->T);
    }
    return VP_OK;
}

static int check_cu(const vp_frame *f, vp_error *err) {
    const vp_column *cu;
    VP_TRY(vp_frame_need(f, "cu", VP_I32, 1, NULL, &cu, err));
    if (cu->shape[0] < 1) return vp_frame_fail(f, VP_DATA, err, "column 'cu' is empty: it needs B+1 offsets");
    if (vp_column_i32(cu, 0) != 0) return vp_frame_fail(f, VP_DATA, err, "cu[0] is not 0");
    for (int64_t i = 1; i < cu->shape[0]; i++)
        if (vp_column_i32(cu, i) < vp_column_i32(cu, i - 1))
            return vp_frame_fail(f, VP_DATA, err, "cu[%lld] is smaller than the offset before it", (long long)i);
    return VP_OK;
}

/* Columns that count from somewhere, or hold tokens. */
static const struct range {
    const char *name;
    int64_t least;
    bool token; /* below the vocabulary's size, when that is known */
} ranges[] = {{"ids", 0, true}, {"target", -3, true}, {"pos", 0, false}, {"prefix", 0, false}, {"row", 0, false}};

static int check_range(const vp_frame *f, const vp_column *c, const struct range *r, int64_t vocab, vp_error *err) {
    for (int64_t i = 0; i < c->shape[0]; i++) {
        const int64_t x = c->dtype == VP_I64 ? vp_column_i64(c, i) : vp_column_i32(c, i);
        if (x < r->least)
            return vp_frame_fail(f, VP_DATA, err, "%s[%lld] = %lld: below %lld", c->name, (long long)i, (long long)x,
                                 (long long)r->least);
        if (r->token && vocab && x >= vocab)
            return vp_frame_fail(f, VP_DATA, err, "%s[%lld] = %lld: outside the vocabulary of %lld", c->name,
                                 (long long)i, (long long)x, (long long)vocab);
    }
    return VP_OK;
}

static int check_content(const vp_frame *f, const vp_column *c, int64_t vocab, vp_error *err) {
    if (c->is_values) return VP_OK;
    const int64_t i = vp_column_nonfinite(c);
    if (i >= 0) return vp_frame_fail(f, VP_DATA, err, "column '%s': element %lld is not finite", c->name, (long long)i);
    for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++)
        if (strcmp(ranges[r].name, c->name) == 0) return check_range(f, c, &ranges[r], vocab, err);
    return VP_OK;
}

int vp_frame_check(vp_frame *f, const vp_declared *declared, int64_t vocab, vp_error *err) {
    sizes s = {.M = -1, .has_cu = vp_frame_find(f, "cu") != NULL};
    vp_column_pattern known[VP_MAX_COLUMNS];
    bool is_known[VP_MAX_COLUMNS];
    if (s.has_cu) VP_TRY(check_cu(f, err));
    for (int i = 0; i < f->ncolumns; i++) {
        vp_column *c = &f->column[i];
        const vp_column_pattern *d = vp_declared_find(declared, c->name);
        is_known[i] = vp_column_pattern_schema(c->name, &known[i]);
        c->symbol = is_known[i] ? vp_column_pattern_symbol(&known[i])
                    : d         ? vp_column_pattern_symbol(d)
                                : VP_SYMBOL_NONE;
        if (c->is_values) c->symbol = VP_SYMBOL_B;
    }
    vp_frame_measure(f);
    for (int i = 0; i < f->ncolumns; i++) {
        const vp_column *c = &f->column[i];
        const vp_column_pattern *d = vp_declared_find(declared, c->name);
        if (is_known[i]) VP_TRY(check_fit(f, c, &s, &known[i], err));
        if (d) VP_TRY(check_fit(f, c, &s, d, err));
        if (c->is_values && c->shape[0] != f->B)
            return vp_frame_fail(f, VP_DATA, err, "column '%s' has %lld values, not %lld", c->name,
                                 (long long)c->shape[0], (long long)f->B);
        VP_TRY(check_content(f, c, vocab, err));
    }
    return VP_OK;
}
