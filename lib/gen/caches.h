/* Texts whose keys and values are there already, which a prompt names and stands behind: documents of an index (knn add
 * of what fwd --emit emb,kv makes) and queries of a stream. */
#ifndef VP_GEN_CACHES_H
#define VP_GEN_CACHES_H
#include "lib/index/kv.h"
#include "lib/model/model.h"
#include "lib/text/text.h"

/* The texts before a prompt, in order; {0}: none. */
typedef struct vp_behind {
    vp_kv *kv;
    size_t n, cap;
} vp_behind;
void vp_behind_free(vp_behind *b); /* {0} is fine */

typedef struct vp_caches vp_caches;
/* documents: an index; queries: a file with a stream that has id, cu, k and v, of which as much is read, and kept in
 * memory, as it takes to find what is asked for; either may be NULL. VP_DATA naming both: their vectors live in
 * different spaces, or their keys and values come from other weights, adapters or another tokenizer than the model's.
 * All is borrowed. */
int vp_caches_open(vp_caches **c, const char *documents, const char *queries, const vp_model *m, const vp_tokenizer *t,
                   vp_error *err);
/* The texts that the record's `cache` names, a list of {"doc": ID} and {"query": ID}; no such member: none. They are
 * valid until vp_behind_free, and before vp_caches_close. VP_DATA: a malformed list, an ID that is not there, damaged
 * keys and values; VP_USAGE: a text of a kind that was not opened. */
int vp_caches_find(vp_caches *c, const vp_record *r, vp_behind *out, vp_error *err);
void vp_caches_close(vp_caches *c);

#endif
