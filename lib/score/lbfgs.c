/* Limited-memory BFGS with a backtracking line search. */
#include "lib/score/probe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY = 10, HALVINGS = 30 };

typedef struct lbfgs {
    int64_t n;
    double *x, *g, f;              /* where we are */
    double *next, *next_g, next_f; /* where we try */
    double *direction;
    double *s[HISTORY], *y[HISTORY], rho[HISTORY]; /* steps, changes of the gradient, 1 / s.y; the oldest first */
    int pairs;
} lbfgs;

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void add(double *a, double scale, const double *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) a[i] += scale * b[i];
}

static double largest(const double *a, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(a[i]));
    return most;
}

/* -H g by the two-loop recursion; the first direction has length 1. */
static void choose_direction(lbfgs *o) {
    double alpha[HISTORY], scale = 1 / sqrt(dot(o->g, o->g, o->n));
    for (int64_t i = 0; i < o->n; i++) o->direction[i] = -o->g[i];
    for (int j = o->pairs - 1; j >= 0; j--) {
        alpha[j] = o->rho[j] * dot(o->s[j], o->direction, o->n);
        add(o->direction, -alpha[j], o->y[j], o->n);
    }
    const int last = o->pairs - 1;
    if (o->pairs) scale = 1 / (o->rho[last] * dot(o->y[last], o->y[last], o->n));
    for (int64_t i = 0; i < o->n; i++) o->direction[i] *= scale;
    for (int j = 0; j < o->pairs; j++)
        add(o->direction, alpha[j] - o->rho[j] * dot(o->y[j], o->direction, o->n), o->s[j], o->n);
}

/* The longest of the steps 1, 1/2, 1/4, ... that lowers f enough (Armijo). *found: there is one. */
static int search_line(lbfgs *o, vp_objective f, void *data, bool *found, vp_error *err) {
    const double slope = dot(o->g, o->direction, o->n);
    double step = 1;
    *found = false;
    for (int i = 0; i < HALVINGS && slope < 0; i++, step /= 2) {
        memcpy(o->next, o->x, (size_t)o->n * sizeof *o->x);
        add(o->next, step, o->direction, o->n);
        VP_TRY(f(data, o->next, &o->next_f, o->next_g, err));
        *found = o->next_f <= o->f + 1e-4 * step * slope;
        if (*found) break;
    }
    return VP_OK;
}

/* The pair of this step takes the place of the oldest; one without curvature is left out. */
static void remember(lbfgs *o) {
    const int at = o->pairs < HISTORY ? o->pairs : HISTORY - 1;
    double *s = o->s[0], *y = o->y[0];
    if (o->pairs < HISTORY) {
        s = o->s[at];
        y = o->y[at];
    }
    for (int64_t i = 0; i < o->n; i++) {
        s[i] = o->next[i] - o->x[i];
        y[i] = o->next_g[i] - o->g[i];
    }
    if (o->pairs == HISTORY) {
        memmove(o->s, o->s + 1, (HISTORY - 1) * sizeof *o->s);
        memmove(o->y, o->y + 1, (HISTORY - 1) * sizeof *o->y);
        memmove(o->rho, o->rho + 1, (HISTORY - 1) * sizeof *o->rho);
        o->s[at] = s;
        o->y[at] = y;
    }
    const double curvature = dot(s, y, o->n);
    o->rho[at] = 1 / curvature;
    o->pairs = curvature > 1e-12 * dot(y, y, o->n) ? at + 1 : at;
}

static void advance(lbfgs *o) {
    double *g = o->g;
    memcpy(o->x, o->next, (size_t)o->n * sizeof *o->x);
    o->f = o->next_f;
    o->g = o->next_g;
    o->next_g = g;
}

static int minimise(lbfgs *o, vp_objective f, void *data, double tolerance, int iterations, vp_error *err) {
    VP_TRY(f(data, o->x, &o->f, o->g, err));
    for (int i = 0; i < iterations && largest(o->g, o->n) > tolerance; i++) {
        bool found;
        choose_direction(o);
        VP_TRY(search_line(o, f, data, &found, err));
        if (!found) break;
        remember(o);
        advance(o);
    }
    return VP_OK;
}

int vp_lbfgs(double *x, int64_t n, vp_objective f, void *data, double tolerance, int iterations, vp_error *err) {
    double *own = vp_calloc((size_t)n, (4 + 2 * HISTORY) * sizeof *own);
    if (!own) return vp_fail_memory(err, "a minimiser", (size_t)n * (4 + 2 * HISTORY) * sizeof *own);
    lbfgs o = {.n = n, .x = x, .g = own, .next = own + n, .next_g = own + 2 * n, .direction = own + 3 * n};
    for (int i = 0; i < HISTORY; i++) {
        o.s[i] = own + (4 + 2 * i) * n;
        o.y[i] = own + (5 + 2 * i) * n;
    }
    const int status = minimise(&o, f, data, tolerance, iterations, err);
    free(own);
    return status;
}
