/* The embedding's rows with those of some tokens replaced: by adapters (PEFT's trainable_token_indices), and by what is
 * trained now. The one after the other, the last one counts. */
#ifndef VP_MODEL_TOKEN_ROWS_H
#define VP_MODEL_TOKEN_ROWS_H
#include "lib/model/encoder.h"

typedef struct vp_token_rows {
    vp_weight_part base; /* [V, C] */
    int64_t cols;
    const vp_model *model;
    const float *trained; /* [V - trained_first, C], or NULL */
    int64_t trained_first;
} vp_token_rows;

/* Of m's embedding; e (NULL: none) tells what is trained. All are borrowed, and read when a row is. */
void vp_token_rows_set(vp_token_rows *r, const vp_model *m, const vp_encoder *e);
/* The rows, as long as r stays where it is. */
vp_weight_part vp_token_rows_part(const vp_token_rows *r);

/* ---- adapters ---- */
/* Whether a tensor of an adapter's file holds rows of tokens. */
bool vp_adapter_has_tokens(const char *tensor);
/* Take them. VP_DATA: not the embedding's, not tokens that follow each other, another shape. */
int vp_adapter_take_tokens(vp_adapter *a, const vp_model *m, const vp_json *j, const vp_tensor_info *info,
                           vp_error *err);
/* PEFT's name of the tensor, into out[160]. */
void vp_adapter_tokens_name(const vp_model *m, char out[160]);

#endif
