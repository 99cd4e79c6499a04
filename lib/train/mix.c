/* The order of the data: an epoch is a list of slots (rows, or batches of one set), shuffled as a whole; each slot
 * names a set and a place in that set's own shuffle. Nothing is remembered from one step to the next. */
#include "lib/train/train.h"
#include "lib/stream/json.h"
#include "lib/train/lines.h"
#include "lib/train/permute.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Permutation streams, below 2^20: from 0 on of the sets, ORDER of the epoch; of what stands beside others; of the
 * order in which sets give what they have left. */
enum { MAX_SETS = 65536, ORDER = 0xFFFFF, BESIDE = 0x80000, BESIDE_ORDER = 0xFFFFE, POOL = 0xFFFFD };

typedef struct share {
    vp_lines lines;
    double weight;
    uint64_t rows;  /* of an epoch */
    uint64_t first; /* the slots of the sets before it */
    uint64_t slots; /* its rows; with batches of one set its whole batches */
} share;

struct vp_mix {
    vp_mix_options o; /* o.set is not kept */
    share *share;     /* [o.sets] */
    uint64_t slots;   /* of an epoch */
    uint64_t whole;   /* VP_MIX_POOLED: those of them that are one set's; the others are mixed batches */
    uint64_t steps_per_epoch;
    int64_t steps;
    uint32_t stream, order; /* permutation streams of the first set, of the epoch */
    size_t named;           /* sets are numbered from here in the identifiers of lines */
    struct vp_mix *beside;
};

static int open_share(vp_mix *m, share *s, const vp_mix_set *set, vp_error *err) {
    const uint64_t batch = (uint64_t)m->o.batch;
    VP_TRY(vp_lines_open(&s->lines, set->path, m->o.lines, err));
    s->weight = set->weight;
    s->first = m->slots;
    if (!s->lines.n) return VP_OK;
    const double rows = round(set->weight * (double)s->lines.n);
    s->rows = rows < 1 ? 1 : (uint64_t)rows;
    s->slots = m->o.batches == VP_MIX_BLENDED ? s->rows : s->rows / batch;
    m->slots += s->slots;
    if (s->slots || m->o.batches == VP_MIX_POOLED) return VP_OK;
    return vp_fail(err, VP_DATA, "'%s': an epoch takes %llu of its rows, too few for one batch of %llu", s->lines.name,
                   (unsigned long long)s->rows, (unsigned long long)batch);
}

/* Rows of an epoch that fill no batch of their set. */
static uint64_t rest_of(const vp_mix *m, size_t set) {
    return m->share[set].rows % (uint64_t)m->o.batch;
}

static int count_steps(vp_mix *m, vp_error *err) {
    const uint64_t batch = (uint64_t)m->o.batch;
    uint64_t rest = 0;
    m->whole = m->slots;
    for (size_t i = 0; m->o.batches == VP_MIX_POOLED && i < m->o.sets; i++) rest += rest_of(m, i);
    m->slots += rest / batch;
    m->steps_per_epoch = m->o.batches == VP_MIX_BLENDED ? m->slots / batch : m->slots;
    const uint64_t rows = m->o.batches == VP_MIX_POOLED ? rest : m->slots;
    if (rows && !m->steps_per_epoch)
        return vp_fail(err, VP_DATA, "an epoch has %llu rows, too few for one batch of %llu", (unsigned long long)rows,
                       (unsigned long long)batch);
    if (m->o.steps && !m->slots)
        return vp_fail(err, VP_DATA, "no records for %lld steps: the input is empty", (long long)m->o.steps);
    /* a hair more, so that a tenth of ten steps is one */
    const double steps = m->o.steps ? (double)m->o.steps : floor(m->o.epochs * (double)m->steps_per_epoch + 1e-6);
    if (!(steps <= (double)VP_MIX_STEPS_MAX))
        return vp_fail(err, VP_USAGE, "%.0f steps: more than %lld", steps, (long long)VP_MIX_STEPS_MAX);
    m->steps = (int64_t)steps;
    return VP_OK;
}

static int open_sets(vp_mix *m, const vp_mix_options *o, vp_error *err) {
    if (o->sets < 1 || o->sets > MAX_SETS)
        return vp_fail(err, VP_USAGE, "%zu data sets: 1 to %d can be mixed", o->sets, MAX_SETS);
    m->o = *o;
    m->o.set = m->o.beside = NULL;
    m->share = vp_calloc(o->sets, sizeof *m->share);
    if (!m->share) return vp_fail_memory(err, "the data sets", o->sets * sizeof *m->share);
    for (size_t i = 0; i < o->sets; i++) VP_TRY(open_share(m, &m->share[i], &o->set[i], err));
    return count_steps(m, err);
}

/* As many steps as the longer of the two has, or as were asked for. */
static int open_beside(vp_mix *m, const vp_mix_options *o, vp_error *err) {
    vp_mix_options other = *o;
    other.set = o->beside;
    other.sets = o->besides;
    other.batch = o->beside_batch;
    other.batches = VP_MIX_BLENDED;
    vp_mix *b = m->beside = vp_calloc(1, sizeof *b);
    if (!b) return vp_fail_memory(err, "a mix", sizeof *b);
    b->stream = BESIDE;
    b->order = BESIDE_ORDER;
    b->named = o->sets;
    VP_TRY(open_sets(b, &other, err));
    if (!m->slots != !b->slots)
        return vp_fail(err, VP_DATA, "'%s' has no records to stand %s the others",
                       m->slots ? b->share[0].lines.name : m->share[0].lines.name, m->slots ? "beside" : "before");
    m->steps = b->steps = m->steps > b->steps ? m->steps : b->steps;
    return VP_OK;
}

int vp_mix_open(vp_mix **out, const vp_mix_options *o, vp_error *err) {
    vp_mix *m = vp_calloc(1, sizeof *m);
    if (!m) return vp_fail_memory(err, "a mix", sizeof *m);
    m->order = ORDER;
    int status = open_sets(m, o, err);
    if (!status && o->beside) status = open_beside(m, o, err);
    if (status) {
        vp_mix_close(m);
        return status;
    }
    *out = m;
    return VP_OK;
}

void vp_mix_close(vp_mix *m) {
    if (!m) return;
    vp_mix_close(m->beside);
    for (size_t i = 0; m->share && i < m->o.sets; i++) vp_lines_close(&m->share[i].lines);
    free(m->share);
    free(m);
}

int64_t vp_mix_batch(const vp_mix *m) {
    return m->o.batch + (m->beside ? m->beside->o.batch : 0);
}

int64_t vp_mix_steps(const vp_mix *m) {
    return m->steps;
}

static uint64_t shuffled(const vp_mix *m, uint64_t i, uint64_t n, uint64_t pass, uint32_t stream) {
    const vp_permutation p = {.seed = m->o.seed, .pass = pass, .stream = stream};
    return m->o.in_order ? i : vp_permute(&p, i, n);
}

/* The set of a slot: the first one that ends behind it. */
static size_t set_of(const vp_mix *m, uint64_t slot) {
    size_t low = 0, high = m->o.sets - 1;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (slot >= m->share[middle].first + m->share[middle].slots)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Row j of those that an epoch takes of a set. A pass is one shuffle of the set: it lasts for as many whole epochs as
 * it has rows for, so that no epoch sees a row twice; an epoch that takes more rows than there are makes several. */
static size_t record_of(const vp_mix *m, size_t set, uint64_t epoch, uint64_t j) {
    const share *s = &m->share[set];
    const uint64_t n = s->lines.n;
    uint64_t pass, at;
    if (s->rows <= n) {
        const uint64_t epochs = n / s->rows;
        pass = epoch / epochs;
        at = epoch % epochs * s->rows + j;
    } else {
        pass = epoch * ((s->rows + n - 1) / n) + j / n;
        at = j % n;
    }
    return (size_t)shuffled(m, at, n, pass, m->stream + (uint32_t)set);
}

/* Row i of what the sets have left in an epoch, one set after the other in a random order. */
static size_t pooled(const vp_mix *m, uint64_t epoch, uint64_t i, size_t *set) {
    for (uint64_t k = 0; k < m->o.sets; k++) {
        *set = (size_t)shuffled(m, k, m->o.sets, epoch, POOL);
        const uint64_t rest = rest_of(m, *set);
        if (i < rest) return record_of(m, *set, epoch, m->share[*set].rows - rest + i);
        i -= rest;
    }
    return 0; /* there are as many as count_steps has added up */
}

/* Which record row k of step i of an epoch is, and of which set. */
static size_t find_record(const vp_mix *m, uint64_t epoch, uint64_t i, uint64_t k, size_t *set) {
    const uint64_t batch = (uint64_t)m->o.batch;
    const bool batches = m->o.batches != VP_MIX_BLENDED;
    const uint64_t slot = shuffled(m, batches ? i : i * batch + k, m->slots, epoch, m->order);
    if (batches && slot >= m->whole) return pooled(m, epoch, (slot - m->whole) * batch + k, set);
    *set = set_of(m, slot);
    const uint64_t place = slot - m->share[*set].first;
    return record_of(m, *set, epoch, batches ? place * batch + k : place);
}

int vp_mix_row(const vp_mix *m, int64_t step, int64_t k, vp_buf *out, vp_error *err) {
    if (m->beside && k >= m->o.batch) return vp_mix_row(m->beside, step, k - m->o.batch, out, err);
    if (step < 0 || step >= m->steps || k < 0 || k >= m->o.batch)
        return vp_fail(err, VP_BUG, "row %lld of step %lld does not exist", (long long)k, (long long)step);
    const uint64_t epoch = (uint64_t)step / m->steps_per_epoch, i = (uint64_t)step % m->steps_per_epoch;
    size_t set = 0;
    const size_t record = find_record(m, epoch, i, (uint64_t)k, &set);
    return vp_lines_append(&m->share[set].lines, record, m->named + set, out, err);
}

static int describe_sets(const vp_mix *m, vp_buf *out, vp_error *err) {
    for (size_t i = 0; i < m->o.sets; i++) {
        const share *s = &m->share[i];
        char name[600], weight[32];
        vp_escape(name, sizeof name, s->lines.name, strlen(s->lines.name));
        vp_json_real_text(weight, s->weight);
        VP_TRY(vp_buf_printf(out, err, "%s{\"name\":", i ? "," : ""));
        VP_TRY(vp_json_quote(out, name, strlen(name), err));
        VP_TRY(vp_buf_printf(out, err, ",\"rows\":%zu,\"weight\":%s}", s->lines.n, weight));
    }
    return vp_buf_add(out, "]", 1, err);
}

int vp_mix_head(const vp_mix *m, int64_t start, vp_buf *out, vp_error *err) {
    static const char *const names[] = {"blended", "same", "pooled"};
    VP_TRY(vp_buf_printf(out, err,
                         "{\"_vp\":{\"jsonl\":1,\"seed\":%llu,\"batch\":%lld,\"batches\":\"%s\",\"steps\":%lld,"
                         "\"start\":%lld,\"sets\":[",
                         (unsigned long long)m->o.seed, (long long)vp_mix_batch(m), names[m->o.batches],
                         (long long)m->steps, (long long)start));
    VP_TRY(describe_sets(m, out, err));
    if (m->beside) {
        VP_TRY(vp_buf_printf(out, err, ",\"generative\":%lld,\"beside\":[", (long long)m->beside->o.batch));
        VP_TRY(describe_sets(m->beside, out, err));
    }
    return vp_buf_printf(out, err, "}}\n");
}

int vp_mix_check(const vp_mix *m, vp_error *err) {
    vp_buf record = {0};
    int status = VP_OK;
    for (size_t set = 0; set < m->o.sets; set++)
        for (size_t i = 0; !status && i < m->share[set].lines.n; i++) {
            record.len = 0;
            status = vp_lines_append(&m->share[set].lines, i, m->named + set, &record, err);
        }
    vp_buf_free(&record);
    return !status && m->beside ? vp_mix_check(m->beside, err) : status;
}
