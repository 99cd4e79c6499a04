/* Clustering: k-means with as many clusters as there are labels, and how well the two agree. */
#include "lib/score/labelled.h"
#include "lib/score/measure.h"
#include "lib/score/probe.h"
#include <stdlib.h>
#include <string.h>

typedef struct cluster {
    vp_labelled x;
    vp_label_counts counts;
    int32_t *found; /* [n] */
    int64_t *table; /* [labels + 2, labels]: texts by label and cluster, then the sums of either */
} cluster;

static void measure(void *data, const int64_t *pick, int64_t n, double *out) {
    cluster *c = data;
    const int64_t k = c->counts.classes;
    memset(c->table, 0, (size_t)(k * k) * sizeof *c->table);
    for (int64_t i = 0; i < n; i++) c->table[c->x.label[pick[i]] * k + c->found[pick[i]]]++;
    const vp_agreement a = vp_v_measure(c->table, k, k, c->table + k * k, c->table + k * k + k);
    out[0] = a.v_measure;
    out[1] = a.homogeneity;
    out[2] = a.completeness;
}

static int run(vp_score *s, cluster *c, const vp_score_options *o, vp_error *err) {
    VP_TRY(vp_labelled_number(&c->x, NULL, &c->counts, err));
    const vp_vectors *v = &c->x.v;
    const size_t k = (size_t)c->counts.classes;
    c->found = vp_calloc((size_t)v->n, sizeof *c->found);
    c->table = vp_calloc(k + 2, k * sizeof *c->table);
    if (!c->found || !c->table) return vp_fail_memory(err, "clusters", k * k * sizeof *c->table);
    VP_TRY(
        vp_kmeans((const float *)(const void *)v->data.data, v->n, v->dims, c->counts.classes, o->seed, c->found, err));
    s->units = v->n;
    vp_score_count(s, "labels", c->counts.classes);
    return vp_score_take(s, measure, c, o, err);
}

int vp_score_cluster(vp_score *s, vp_score_file vectors, const char *label, const vp_score_options *o, vp_error *err) {
    cluster c = {0};
    *s = (vp_score){.task = "cluster", .unit = "texts", .centred = true};
    vp_score_name(s, "v_measure");
    vp_score_name(s, "homogeneity");
    vp_score_name(s, "completeness");
    int status = vp_labelled_read(&c.x, vectors, label, err);
    if (!status) status = run(s, &c, o, err);
    vp_labelled_free(&c.x);
    free(c.found);
    free(c.table);
    return status;
}
