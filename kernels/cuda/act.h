/* The activation that an operation names. */
#ifndef VP_CUDA_ACT_H
#define VP_CUDA_ACT_H
#include "kernels/cuda/vec.h"

template <int n> VP_DEVICE void vp_act_apply(vp_act act, float (&v)[n]) {
    switch (act) {
#define X(name, f, slope)                                                                                              \
    case name:                                                                                                         \
        for (int i = 0; i < n; i++) v[i] = f(v[i]);                                                                    \
        break;
        VP_ACT_FUNCTIONS(X)
#undef X
    }
}

#endif
