/* Which device computes: the CPU, or a GPU through a library that is opened at run time. */
#ifndef VP_KERNELS_LOAD_H
#define VP_KERNELS_LOAD_H
#include "kernels/ops.h"

#define VP_DEVICES "auto|cpu|cuda[:N]"
/* The backend of a device by name (NULL: $VP_DEVICE, else "auto") and its number, to be given to its open. auto: a GPU
 * where the library and a device are there, else the CPU. The library is libvecpipe-cuda.so in the running program's
 * folder or the one above, or the file that $VP_CUDA_LIBRARY names. VP_USAGE: no such name; VP_MEMORY: no such device,
 * with the reason. */
int vp_backend_choose(const char *name, const vp_backend **backend, int *number, vp_error *err);
/* That device open, with a queue; `options` but for its index. auto: the CPU where the GPU cannot be opened. What was
 * opened is the caller's to close, also after a failure. */
int vp_backend_open(const char *name, vp_device_options *options, const vp_backend **backend, vp_device **device,
                    vp_queue **queue, vp_error *err);

/* What such a library exports: its table, NULL when it was built for another version of ops.h than `size` says; and how
 * many devices it finds, with the reason in err when there is none. */
#define VP_CUDA_SYMBOL "vp_backend_cuda"
typedef const vp_backend *vp_backend_cuda_fn(size_t size, int *devices, vp_error *err);

#endif
