/* run/ as a result: what PEFT and our own --adapter load; lib/model/settings_write.h says the rest. Each file appears
 * whole.
 */
#ifndef VP_TRAIN_OUTPUT_H
#define VP_TRAIN_OUTPUT_H
#include "lib/base/dtype.h"
#include "lib/base/base.h"
#include "lib/model/params.h"

typedef struct vp_lora_output {
    /* every name PEFT's: base_model.model.[model.]MODULE.lora_A.weight, .lora_B.weight; where there are tokens, their
     * rows last: MODULE.token_adapter.trainable_tokens_delta */
    const vp_params *params;
    int64_t tokens, first_token; /* tokens 0: none */
    const char *base;            /* base_model_name_or_path: the folder or the name by which Python finds the base */
    double alpha, dropout;
    vp_dtype dtype; /* of the tensors: VP_F32, VP_BF16 or VP_F16 */
} vp_lora_output;
/* adapter_model.safetensors, then adapter_config.json with the rank and target modules that the names and shapes tell.
 * VP_BUG: names that are not PEFT's, or more than one rank. VP_DATA: a number that is not finite. */
int vp_run_write_adapter(const char *folder, const vp_lora_output *lora, vp_error *err);

/* Copies of the tokenizer's files in the base's folder, which sentence-transformers wants beside an adapter. */
int vp_run_write_tokenizer(const char *folder, const char *base, vp_error *err);

#endif
