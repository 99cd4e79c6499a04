/* Choosing a backend by the name of a device: load.h. */
#include "kernels/load.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FILE_NAME[] = "libvecpipe-cuda.so";

/* The library beside the running program or one folder above, into path. */
static bool find_library(char *path, size_t size) {
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(exe, '/');
        if (!slash) return false;
        *slash = '\0';
        if ((size_t)snprintf(path, size, "%s/%s", exe, FILE_NAME) < size && access(path, R_OK) == 0) return true;
    }
    return false;
}

static int open_library(const vp_backend **backend, int *devices, vp_error *err) {
    char found[PATH_MAX];
    const char *path = getenv("VP_CUDA_LIBRARY");
    if (!path || !*path) path = find_library(found, sizeof found) ? found : NULL;
    if (!path) return vp_fail(err, VP_MEMORY, "no %s beside the programs: `make cuda` builds it", FILE_NAME);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* for as long as the program runs */
    if (!library) return vp_fail(err, VP_MEMORY, "%s", dlerror());
    vp_backend_cuda_fn *get;
    *(void **)&get = dlsym(library, VP_CUDA_SYMBOL);
    if (!get) return vp_fail(err, VP_MEMORY, "%s: has no %s", path, VP_CUDA_SYMBOL);
    *backend = get(sizeof **backend, devices, err);
    return *backend ? VP_OK : vp_fail(err, VP_MEMORY, "%s: is of another version of vecpipe", path);
}

static int open_cuda(const char *name, const vp_backend **backend, int *number, vp_error *err) {
    vp_error why = {0};
    int devices = 0, status = open_library(backend, &devices, &why);
    if (!status && devices == 0) status = why.code ? why.code : vp_fail(&why, VP_MEMORY, "there is none");
    if (status) return vp_fail(err, status, "device %s: %s", name, why.text);
    if (*number < devices) return VP_OK;
    return vp_fail(err, VP_MEMORY, "device %s: there %s %d, counted from 0", name, devices == 1 ? "is" : "are",
                   devices);
}

/* Whether it is worth to open the library without being asked: not where there is no driver, as opening takes long. */
static bool may_have_gpu(void) {
    const char *path = getenv("VP_CUDA_LIBRARY");
    return (path && *path) || dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
}

/* What is meant by no name. */
static const char *full_name(const char *name) {
    if (!name || !*name) name = getenv("VP_DEVICE");
    return name && *name ? name : "auto";
}

int vp_backend_choose(const char *name, const vp_backend **backend, int *number, vp_error *err) {
    name = full_name(name);
    *number = 0;
    *backend = vp_backend_cpu();
    if (!strcmp(name, "cpu")) return VP_OK;
    if (!strcmp(name, "auto")) {
        vp_error none = {0};
        if (!may_have_gpu() || open_cuda(name, backend, number, &none)) *backend = vp_backend_cpu();
        return VP_OK;
    }
    if (!strncmp(name, "cuda", 4) && (name[4] == '\0' || name[4] == ':')) {
        char *end = NULL;
        long n = name[4] ? strtol(name + 5, &end, 10) : 0;
        bool digit = !name[4] || (name[5] >= '0' && name[5] <= '9');
        if (digit && (!end || !*end) && n >= 0 && n < 1024) {
            *number = (int)n;
            return open_cuda(name, backend, number, err);
        }
    }
    return vp_fail(err, VP_USAGE, "device '%s' is not one of " VP_DEVICES, name);
}

static int open_both(const vp_backend *b, const vp_device_options *o, vp_device **device, vp_queue **queue,
                     vp_error *err) {
    VP_TRY(b->open(device, o, err));
    return b->queue_open(queue, *device, err);
}

int vp_backend_open(const char *name, vp_device_options *options, const vp_backend **backend, vp_device **device,
                    vp_queue **queue, vp_error *err) {
    vp_error none = {0};
    VP_TRY(vp_backend_choose(name, backend, &options->index, err));
    if (*backend == vp_backend_cpu()) return open_both(*backend, options, device, queue, err);
    const bool may = !strcmp(full_name(name), "auto");
    const int status = open_both(*backend, options, device, queue, may ? &none : err);
    if (!status || !may) return status;
    if (*device) (*backend)->close(*device);
    *device = NULL;
    *backend = vp_backend_cpu();
    return open_both(*backend, options, device, queue, err);
}
