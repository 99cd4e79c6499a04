/* Scores as a table for a person and as one JSON object. */
#include "lib/score/score.h"
#include <string.h>

enum { NAME_WIDTH = 22 };

int vp_score_print_table(const vp_score *s, vp_buf *out, vp_error *err) {
    const double times = s->plain ? 1 : 100;
    VP_TRY(vp_buf_printf(out, err, "%s: %lld %s%s\n", s->task, (long long)s->units, s->unit,
                         s->intervals ? ", 95 % intervals" : ""));
    for (int m = 0; m < s->n; m++) {
        const vp_score_measure *x = &s->measure[m];
        VP_TRY(vp_buf_printf(out, err, "  %-*s%7.2f", NAME_WIDTH, x->name, times * x->value));
        if (s->intervals) VP_TRY(vp_buf_printf(out, err, "  [%6.2f, %6.2f]", times * x->low, times * x->high));
        VP_TRY(vp_buf_add(out, "\n", 1, err));
    }
    for (int i = 0; i < s->ncounts; i++)
        if (s->count[i].n)
            VP_TRY(vp_buf_printf(out, err, "  %-*s%4lld\n", NAME_WIDTH, s->count[i].name, (long long)s->count[i].n));
    return VP_OK;
}

int vp_score_print_json(const vp_score *s, vp_buf *out, vp_error *err) {
    VP_TRY(vp_buf_printf(out, err, "{\"task\":\"%s\",\"main_score\":%.9g", s->task, s->measure[0].value));
    for (int m = 0; m < s->n; m++)
        VP_TRY(vp_buf_printf(out, err, ",\"%s\":%.9g", s->measure[m].name, s->measure[m].value));
    VP_TRY(vp_buf_printf(out, err, ",\"%s\":%lld", s->unit, (long long)s->units));
    for (int i = 0; i < s->ncounts; i++)
        VP_TRY(vp_buf_printf(out, err, ",\"%s\":%lld", s->count[i].name, (long long)s->count[i].n));
    for (int m = 0; m < s->n && s->intervals; m++)
        VP_TRY(vp_buf_printf(out, err, "%s\"%s\":[%.9g,%.9g]", m ? "," : ",\"interval_95\":{", s->measure[m].name,
                             s->measure[m].low, s->measure[m].high));
    return vp_buf_printf(out, err, "%s}\n", s->intervals ? "}" : "");
}
