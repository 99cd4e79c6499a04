/* Private to tests/fuzz: what the rows of targets.c call. */
#ifndef VP_TESTS_FUZZ_TARGETS_H
#define VP_TESTS_FUZZ_TARGETS_H
#include "lib/stream/stream.h"
#include "tests/fuzz/fuzz.h"

/* support.c */
void fuzz_seed_text(fuzz_seeds *s, const char *text);
/* The input as a file in memory: its path, /proc/self/fd/N; and *fd to close, at offset 0. */
const char *fuzz_memory_file(const vp_buf *input, int *fd);
/* The input as the file `name` of the scratch folder that is the current folder of a target's process. */
void fuzz_write_file(const char *name, const vp_buf *input);
void fuzz_write_text(const char *name, const char *text);
void fuzz_scratch_enter(const char *folder);
void fuzz_scratch_remove(const char *folder); /* with everything in it */

/* targets_stream.c: what `write` writes, with a map and a frame at hand, both empty. */
typedef int fuzz_write_stream(vp_writer *w, vp_map *keys, vp_frame *f, vp_error *err);
void fuzz_seed_stream(vp_buf *out, fuzz_write_stream *write);
/* targets_folder.c: config.json and model.safetensors of a small LLaMA in the current folder. */
void fuzz_tiny_model(void);

/* targets_model.c */
void gguf_seeds(fuzz_seeds *s);
int gguf_run(const vp_buf *input, vp_error *err);
void safetensors_seeds(fuzz_seeds *s);
void safetensors_repair(vp_buf *input);
int safetensors_run(const vp_buf *input, vp_error *err);
void shards_seeds(fuzz_seeds *s);
int shards_run(const vp_buf *input, vp_error *err);

/* targets_stream.c */
void stream_seeds(fuzz_seeds *s);
void stream_repair(vp_buf *input);
int stream_run(const vp_buf *input, vp_error *err);

/* targets_text.c */
void records_seeds(fuzz_seeds *s);
int records_run(const vp_buf *input, vp_error *err);
int mix_run(const vp_buf *input, vp_error *err);

/* targets_tokenizer.c */
void tokenizer_seeds(fuzz_seeds *s);
int tokenizer_run(const vp_buf *input, vp_error *err);
void vocabulary_seeds(fuzz_seeds *s);
int vocabulary_run(const vp_buf *input, vp_error *err);

/* targets_folder.c */
void config_seeds(fuzz_seeds *s);
int config_run(const vp_buf *input, vp_error *err);
void settings_seeds(fuzz_seeds *s);
int settings_run(const vp_buf *input, vp_error *err);
void adapter_seeds(fuzz_seeds *s);
int adapter_run(const vp_buf *input, vp_error *err);
void gguf_model_seeds(fuzz_seeds *s);
int gguf_model_run(const vp_buf *input, vp_error *err);

/* targets_train.c */
void recipe_seeds(fuzz_seeds *s);
int recipe_run(const vp_buf *input, vp_error *err);
void checkpoint_seeds(fuzz_seeds *s);
void checkpoint_repair(vp_buf *input);
int checkpoint_run(const vp_buf *input, vp_error *err);
void live_seeds(fuzz_seeds *s);
void live_repair(vp_buf *input);
int live_run(const vp_buf *input, vp_error *err);
void steps_seeds(fuzz_seeds *s);
int steps_run(const vp_buf *input, vp_error *err);

/* targets_index.c */
void index_bytes_seeds(fuzz_seeds *s);
int index_bytes_run(const vp_buf *input, vp_error *err);
void index_values_seeds(fuzz_seeds *s);
int index_values_run(const vp_buf *input, vp_error *err);
void kv_record_seeds(fuzz_seeds *s);
int kv_record_run(const vp_buf *input, vp_error *err);

#endif
