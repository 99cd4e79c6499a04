/* What begins a function in a header that runs on the host and in kernels alike. */
#ifndef VP_BASE_ANYWHERE_H
#define VP_BASE_ANYWHERE_H

#ifdef __CUDACC__
#define VP_ANYWHERE static inline __host__ __device__
#else
#define VP_ANYWHERE static inline
#endif

#endif
