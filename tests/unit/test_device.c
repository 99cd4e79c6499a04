/* Which device a name means, and what is said of one that is not there (kernels/load.h). */
#include "kernels/load.h"
#include "tests/unit/tap.h"
#include <stdlib.h>
#include <string.h>

/* Opening `name` fails with this status, and a reason that has `part` in it. */
static void refuses(const char *name, int status, const char *part) {
    const vp_backend *b = NULL;
    vp_error err = {0};
    int number = -1;
    const int got = vp_backend_choose(name, &b, &number, &err);
    OK(got == status && strstr(err.text, part) != NULL, "%s is refused: %s", name ? name : "nothing", err.text);
}

static void is_cpu(const char *name, const char *what) {
    const vp_backend *b = NULL;
    vp_error err = {0};
    int number = -1;
    const int status = vp_backend_choose(name, &b, &number, &err);
    OK(!status && b == vp_backend_cpu() && number == 0, "%s is the CPU %s", what, err.text);
}

static void check_names(void) {
    static const char *const bad[] = {"gpu",     "CUDA",    "cuda:",   "cuda:x",    "cuda:1x",
                                      "cuda:-1", "cuda: 1", "cuda:+1", "cuda:1024", "cuda:99999999999999999999",
                                      "cudas",   "cpu:0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuses(bad[i], VP_USAGE, "is not one of " VP_DEVICES);
    setenv("VP_DEVICE", "gpu", 1);
    refuses(NULL, VP_USAGE, "device 'gpu'");
    refuses("", VP_USAGE, "device 'gpu'");
    is_cpu("cpu", "an option against $VP_DEVICE");
    setenv("VP_DEVICE", "cpu", 1);
    is_cpu(NULL, "$VP_DEVICE");
    setenv("VP_DEVICE", "", 1);
}

/* Without a library, and with files that are none of ours. */
static void check_libraries(void) {
    setenv("VP_CUDA_LIBRARY", "/nowhere/libvecpipe-cuda.so", 1);
    refuses("cuda", VP_MEMORY, "device cuda: /nowhere/libvecpipe-cuda.so: cannot open");
    refuses("cuda:3", VP_MEMORY, "device cuda:3: ");
    is_cpu("auto", "auto without the library");
    is_cpu(NULL, "nothing without the library");
    setenv("VP_CUDA_LIBRARY", "libm.so.6", 1);
    refuses("cuda", VP_MEMORY, "libm.so.6: has no " VP_CUDA_SYMBOL);
    is_cpu("auto", "auto with another library");
    unsetenv("VP_CUDA_LIBRARY");
}

static void check_open(void) {
    vp_device_options options = {.threads = 1};
    const vp_backend *b = NULL;
    vp_device *device = NULL;
    vp_queue *queue = NULL;
    vp_error err = {0};
    setenv("VP_CUDA_LIBRARY", "/nowhere/libvecpipe-cuda.so", 1);
    const int status = vp_backend_open("auto", &options, &b, &device, &queue, &err);
    vp_caps caps = {.separate = true};
    if (device) b->caps(device, &caps);
    OK(!status && device && queue && !caps.separate, "auto opens the CPU, whose memory is the host's %s", err.text);
    if (queue) b->queue_close(queue);
    if (device) b->close(device);
    device = NULL, queue = NULL;
    OK(vp_backend_open("cuda", &options, &b, &device, &queue, &err) == VP_MEMORY && !device && !queue,
       "cuda opens nothing: %s", err.text);
}

int main(void) {
    unsetenv("VP_CUDA_LIBRARY");
    unsetenv("VP_DEVICE");
    check_names();
    check_libraries();
    check_open();
    return done();
}
