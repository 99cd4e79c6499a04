/* The activation that an operation names, on one float. */
#ifndef VP_CUDA_ACT_H
#define VP_CUDA_ACT_H
#include "kernels/cuda/vec.h"

VP_DEVICE float vp_act_apply(vp_act act, float x) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        return f(x);
        VP_ACT_FUNCTIONS(X)
#undef X
    }
    return x;
}

#endif
