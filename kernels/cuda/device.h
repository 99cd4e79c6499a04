/* The device's part of the table: device.cu. */
#ifndef VP_CUDA_DEVICE_H
#define VP_CUDA_DEVICE_H
#include "kernels/cuda/cuda.h"

int vp_cuda_count(vp_error *err); /* of devices; 0 with the reason */
int vp_cuda_open(vp_device **d, const vp_device_options *options, vp_error *err);
void vp_cuda_close(vp_device *d);
void vp_cuda_caps(const vp_device *d, vp_caps *caps);
const char *vp_cuda_note(vp_device *d, int i); /* refused.cu */
int vp_cuda_queue_open(vp_queue **q, vp_device *d, vp_error *err);
int vp_cuda_queue_plan(vp_queue **q, vp_device *d, vp_error *err);
void vp_cuda_queue_close(vp_queue *q);
int vp_cuda_queue_wait(vp_queue *q, vp_error *err);
const char *vp_cuda_why(const vp_queue *q);
void *vp_cuda_arena_alloc(vp_queue *q, size_t bytes);
size_t vp_cuda_arena_mark(const vp_queue *q);
void vp_cuda_arena_release(vp_queue *q, size_t mark);
size_t vp_cuda_arena_most(const vp_queue *q);
int vp_cuda_arena_reserve(vp_queue *q, size_t bytes);
size_t vp_cuda_memory_free(const vp_device *d);
/* pinned.cu, over memory of device.cu's that is pinned and given back at once; NULL: there is no more */
void vp_pinned_open(vp_device *d);
void vp_pinned_close(vp_device *d);
void *vp_device_pin(size_t bytes);
void vp_device_unpin(void *p);
void *vp_cuda_host_alloc(vp_device *d, size_t bytes);
void vp_cuda_host_free(vp_device *d, void *p);
int vp_cuda_copy(vp_queue *q, void *to, const void *from, size_t bytes);

#endif
