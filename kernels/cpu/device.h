/* The device and queue slots of the CPU backend. */
#ifndef VP_CPU_DEVICE_H
#define VP_CPU_DEVICE_H
#include "kernels/cpu/cpu.h"

int vp_cpu_open(vp_device **d, const vp_device_options *options, vp_error *err);
void vp_cpu_close(vp_device *d);
void vp_cpu_caps(const vp_device *d, vp_caps *caps);
int vp_cpu_queue_open(vp_queue **q, vp_device *d, vp_error *err);
int vp_cpu_queue_plan(vp_queue **q, vp_device *d, vp_error *err);
void vp_cpu_queue_close(vp_queue *q);
int vp_cpu_queue_wait(vp_queue *q, vp_error *err);
const char *vp_cpu_why(const vp_queue *q);
void *vp_cpu_host_alloc(vp_device *d, size_t bytes);
void vp_cpu_host_free(vp_device *d, void *p);
int vp_cpu_copy(vp_queue *q, void *to, const void *from, size_t bytes);

#endif
