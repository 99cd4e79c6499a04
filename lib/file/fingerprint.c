/* The identity of a model's weights: what is hashed, and in which order. */
#include "lib/file/source_table.h"

enum { SAMPLE = 64 << 10 };

/* The whole of a small tensor, else its begin, middle and end. */
static void add_samples(vp_hasher *h, const vp_tensor_info *t) {
    if (t->bytes <= 3 * (size_t)SAMPLE) {
        vp_hasher_part(h, t->data, t->bytes);
        return;
    }
    vp_hasher_part(h, t->data, SAMPLE);
    vp_hasher_part(h, t->data + t->bytes / 2 - SAMPLE / 2, SAMPLE);
    vp_hasher_part(h, t->data + t->bytes - SAMPLE, SAMPLE);
}

int vp_source_fingerprint(const vp_source *s, const char *config, size_t n, uint8_t out[16], vp_error *err) {
    const vp_table *table = vp_source_table(s);
    vp_hasher h;
    VP_TRY(vp_hasher_begin(&h, err));
    vp_hasher_part(&h, config, n);
    for (size_t i = 0; i < table->n; i++) {
        const vp_tensor_info *t = &table->tensor[table->by_name[i]];
        vp_hasher_str(&h, t->name);
        vp_hasher_str(&h, t->type);
        vp_hasher_part(&h, t->shape, (size_t)t->ndim * sizeof t->shape[0]);
        add_samples(&h, t);
    }
    vp_hasher_finish(&h, out);
    return VP_OK;
}
