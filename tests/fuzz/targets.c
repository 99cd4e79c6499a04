/* The table of fuzzed readers: small valid inputs, how to make a damaged one plausible again, and the call. */
#include "tests/fuzz/targets.h"

const fuzz_target fuzz_targets[] = {
    {"gguf", 1, gguf_seeds, NULL, gguf_run},
    {"safetensors", 1, safetensors_seeds, safetensors_repair, safetensors_run},
    {"shards", 2, shards_seeds, NULL, shards_run},
    {"stream", 1, stream_seeds, stream_repair, stream_run},
    {"records", 1, records_seeds, NULL, records_run},
    {"mix", 1, records_seeds, NULL, mix_run},
    {"tokenizer", 2, tokenizer_seeds, NULL, tokenizer_run},
    {"vocabulary", 2, vocabulary_seeds, NULL, vocabulary_run},
    {"config", 2, config_seeds, NULL, config_run},
    {"settings", 2, settings_seeds, NULL, settings_run},
    {"adapter", 2, adapter_seeds, NULL, adapter_run},
    {"gguf_model", 2, gguf_model_seeds, NULL, gguf_model_run},
    {"recipe", 4, recipe_seeds, NULL, recipe_run},
    {"checkpoint", 2, checkpoint_seeds, checkpoint_repair, checkpoint_run},
    {"live", 1, live_seeds, live_repair, live_run},
    {"steps", 1, steps_seeds, stream_repair, steps_run},
    {"index_bytes", 20, index_bytes_seeds, NULL, index_bytes_run},
    {"index_values", 20, index_values_seeds, NULL, index_values_run},
    {"kv_record", 1, kv_record_seeds, NULL, kv_record_run},
    {0},
};
