/* Which variant of the files simd_*.c runs: chosen once, when the device is opened. */
#include "kernels/cpu/simd_tables.h"
#include <string.h>

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_scalar(void) {
    return true;
}

/* best first */
#define X(isa)                                                                                                         \
    {{#isa, &vp_simd_rows_##isa, &vp_simd_acts_##isa, &vp_simd_gemm_##isa, &vp_simd_attn_##isa, &vp_simd_grads_##isa,  \
      &vp_simd_drop_##isa, &vp_simd_loss_##isa, &vp_simd_topk_##isa, &vp_simd_mix_##isa, &vp_simd_optim_##isa},        \
     has_##isa},
static const struct {
    vp_simd simd;
    bool (*supported)(void);
} variants[] = {VP_ISAS(X)};
#undef X
enum { VARIANTS = sizeof variants / sizeof *variants };

int vp_simd_choose(const char *name, const vp_simd **simd, vp_error *err) {
    bool any = strcmp(name, "auto") == 0;
    for (size_t i = 0; i < VARIANTS; i++) {
        if (!any && strcmp(name, variants[i].simd.name) != 0) continue;
        if (variants[i].supported()) {
            *simd = &variants[i].simd;
            return VP_OK;
        }
        if (!any) return vp_fail(err, VP_USAGE, "instruction set %s: this processor does not have it", name);
    }
    return vp_fail(err, VP_USAGE, "instruction set '%s': not one of auto, avx512, avx2, scalar", name);
}
