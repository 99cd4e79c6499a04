/* run/ as a result: what PEFT, sentence-transformers, llm2vec and our own --adapter load. Each file appears whole. */
#ifndef VP_TRAIN_OUTPUT_H
#define VP_TRAIN_OUTPUT_H
#include "lib/base/json.h"
#include "lib/model/model.h"
#include "lib/model/params.h"

/* FOLDER/NAME as indented JSON, through a temporary name. */
int vp_run_write_json(const char *folder, const char *name, const json_t *root, vp_error *err);

typedef struct vp_lora_output {
    const vp_params *params; /* every name PEFT's: base_model.model.[model.]MODULE.lora_A.weight, .lora_B.weight */
    const char *base;        /* base_model_name_or_path: the folder or the name by which Python finds the base */
    double alpha, dropout;
} vp_lora_output;
/* adapter_model.safetensors, then adapter_config.json with the rank and target modules that the names and shapes tell.
 * VP_BUG: names that are not PEFT's, or more than one rank. VP_DATA: a number that is not finite. */
int vp_run_write_adapter(const char *folder, const vp_lora_output *lora, vp_error *err);

/* What the result is for: llm2vec_config.json where attention is "bi" (without it our --adapter, like LLM2Vec, takes
 * the base's settings), and sentence-transformers' modules.json, sentence_bert_config.json,
 * config_sentence_transformers.json and 1_Pooling/config.json. With "bi" the first module is a class in
 * bidirectional.py, for which SentenceTransformer(FOLDER) wants trust_remote_code=True. `width` is the model's;
 * LLM2Vec's doc_max_length is doc_max_len. */
int vp_run_write_settings(const char *folder, const vp_settings *settings, int64_t width, int64_t doc_max_len,
                          vp_error *err);
/* Copies of the tokenizer's files in the base's folder, which sentence-transformers wants beside an adapter. */
int vp_run_write_tokenizer(const char *folder, const char *base, vp_error *err);

#endif
