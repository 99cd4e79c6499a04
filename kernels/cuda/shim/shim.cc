/* The GPU on the host that shim.h describes: fibers, rendezvous, checked shared memory, device memory that only kernels
 * may touch. One launch at a time. */
#include "kernels/cuda/shim/shim.h"
#include <atomic>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

dim3 vp_shim_thread, vp_shim_block, vp_shim_grid, vp_shim_threads;

namespace {
enum { WARP = 32, STACK = 256 << 10, LANE_BYTES = 64 };
enum Wait { NONE, BARRIER, WARP_SYNC, EXCHANGE, DONE };

struct Copy {
    size_t to;
    const void *from; /* NULL: zeros */
};
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool begun;
    Wait wait;
    const char *what;
    std::unique_ptr<char[]> stack;         /* touched only as far as it is used */
    std::vector<std::vector<Copy>> groups; /* the last one is not committed */
    int pending;                           /* products of warp groups */
    bool unpublished;                      /* has written to shared memory since it published */
};
struct Warp {
    unsigned char brought[WARP * LANE_BYTES], given[WARP * LANE_BYTES];
    uint32_t epoch;
};
/* Who touched two bytes of shared memory last, and in which epoch of the block and of the warp. */
struct Touch {
    uint32_t epoch, warp_epoch;
    int32_t thread; /* NOBODY, EVERYBODY: of several warps, or several of warp w: SEVERAL - w */
};
enum { NOBODY = -1, EVERYBODY = -2, SEVERAL = -3 };
struct Shadow {
    Touch write, read;
};

std::mutex one_launch;
std::deque<Fiber> fibers; /* stay where they are */
std::vector<Warp> warps;
std::vector<unsigned char> shared;
std::vector<Shadow> shadow;
uint32_t epoch;
unsigned running;
size_t threads_;
bool published; /* all that was written before the last barrier */
const char *kernel_name;
const std::function<void()> *kernel_call;
jmp_buf scheduler;
uint64_t random_state = 88172645463325252u;

uint32_t draw() { /* xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

void pause(Wait wait, const char *what) {
    Fiber &f = fibers[running];
    f.wait = wait;
    f.what = what;
    if (!_setjmp(f.at)) _longjmp(scheduler, 1);
}

/* A fiber serves one thread of a block after another. */
void body() {
    for (;;) {
        (*kernel_call)();
        Fiber &f = fibers[running];
        for (const auto &group : f.groups)
            if (!group.empty()) vp_shim_stop("returned before an asynchronous copy was waited for");
        if (f.pending) vp_shim_stop("returned before a product was waited for");
        f.groups.resize(1);
        pause(DONE, "the end");
    }
}

void resume(unsigned thread) {
    running = thread;
    vp_shim_thread = dim3(thread, 0, 0);
    if (_setjmp(scheduler)) return;
    Fiber &f = fibers[running];
    f.wait = NONE;
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    setcontext(&f.start);
}

void make_fiber(Fiber &f) {
    f.groups.resize(1);
    f.stack.reset(new char[STACK]);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, body, 0);
}

/* Where every lane of a warp that has not returned waits for the same thing, let them go on. */
bool meet(size_t warp) {
    size_t first = warp * WARP, last = first + WARP < threads_ ? first + WARP : threads_;
    for (size_t t = first; t < last; t++) {
        running = (unsigned)t;
        if (fibers[t].wait != WARP_SYNC && fibers[t].wait != EXCHANGE) return false;
        if (fibers[t].what != fibers[first].what)
            vp_shim_stop("meets lane %zu in '%s', itself in '%s'", first % WARP, fibers[first].what, fibers[t].what);
    }
    Warp &w = warps[warp];
    if (fibers[first].wait == WARP_SYNC) w.epoch++;
    memcpy(w.given, w.brought, sizeof w.given);
    for (size_t t = first; t < last; t++) fibers[t].wait = NONE;
    return true;
}

/* All that wait are let go where they have met; false when nobody is left. */
bool settle() {
    bool some = false;
    size_t at_barrier = 0, done = 0;
    for (size_t w = 0; w < warps.size(); w++) some |= meet(w);
    for (size_t t = 0; t < threads_; t++) {
        at_barrier += fibers[t].wait == BARRIER;
        done += fibers[t].wait == DONE;
    }
    if (done == threads_) return false;
    if (at_barrier == threads_) {
        epoch++;
        for (size_t t = 0; t < threads_; t++) {
            fibers[t].wait = NONE;
            published &= !fibers[t].unpublished;
        }
        some = true;
    }
    if (!some) {
        for (running = 0; fibers[running].wait == DONE; running++) continue;
        vp_shim_thread.x = running;
        vp_shim_stop("waits in '%s' for threads that do not come (%zu of %zu at a barrier, %zu have returned)",
                     fibers[running].what, at_barrier, threads_, done);
    }
    return true;
}

void run_block() {
    for (size_t t = 0; t < threads_; t++) {
        fibers[t].wait = NONE;
        fibers[t].unpublished = false;
    }
    for (Warp &w : warps) w.epoch = 0;
    epoch = 1;
    published = true;
    memset(shared.data(), 0xff, shared.size());
    for (Shadow &s : shadow) s = {{0, 0, NOBODY}, {0, 0, NOBODY}};
    do {
        unsigned from = draw() % (unsigned)threads_, by = draw() % 2 ? 1 : (unsigned)threads_ - 1;
        for (size_t i = 0, t = from; i < threads_; i++, t = (t + by) % threads_)
            if (fibers[t].wait == NONE) resume((unsigned)t);
    } while (settle());
}

int32_t warp_of(const Touch &t) {
    return t.thread >= 0 ? t.thread / WARP : SEVERAL - t.thread;
}

bool apart(const Touch &t) { /* by someone else, without a barrier since */
    if (t.thread == NOBODY || t.epoch != epoch || t.thread == (int32_t)running) return false;
    if (t.thread == EVERYBODY || warp_of(t) != (int32_t)running / WARP) return true;
    return t.warp_epoch == warps[running / WARP].epoch;
}

std::string name_of(const Touch &t) {
    if (t.thread == EVERYBODY) return "several warps";
    return (t.thread >= 0 ? "thread " + std::to_string(t.thread) : "warp " + std::to_string(warp_of(t)));
}

/* Who has read, now that `mine` does too. */
Touch joined(const Touch &read, const Touch &mine) {
    if (read.epoch != epoch || read.thread == NOBODY || read.thread == mine.thread) return mine;
    if (read.thread == EVERYBODY || warp_of(read) != warp_of(mine)) return {epoch, 0, EVERYBODY};
    return {epoch, mine.warp_epoch, SEVERAL - warp_of(mine)};
}
} // namespace

void vp_shim_stop(const char *format, ...) {
    va_list args;
    fprintf(stderr, "%s: block (%u, %u, %u), thread %u: ", kernel_name, vp_shim_block.x, vp_shim_block.y,
            vp_shim_block.z, running);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

unsigned char *vp_shim_shared(size_t at, size_t bytes, bool write) {
    if (at > shared.size() || bytes > shared.size() - at)
        vp_shim_stop("shared memory at %zu: %zu bytes, of %zu", at, bytes, shared.size());
    if (at % bytes) vp_shim_stop("shared memory at %zu: not at a multiple of %zu", at, bytes);
    const Touch mine = {epoch, warps[running / WARP].epoch, (int32_t)running};
    fibers[running].unpublished |= write;
    for (size_t i = at / 2; i < (at + bytes + 1) / 2; i++) {
        Shadow &s = shadow[i];
        if (!write && s.write.thread == NOBODY) vp_shim_stop("shared memory at %zu is read before it is written", at);
        if (apart(s.write))
            vp_shim_stop("shared memory at %zu: thread %d wrote it, no barrier since", at, s.write.thread);
        if (write && apart(s.read))
            vp_shim_stop("shared memory at %zu: %s read it, no barrier since", at, name_of(s.read).c_str());
        if (write)
            s.write = mine;
        else
            s.read = joined(s.read, mine);
    }
    return shared.data() + at;
}

void vp_barrier() {
    pause(BARRIER, "barrier");
}

void vp_warp_barrier() {
    pause(WARP_SYNC, "warp barrier");
}

const unsigned char *vp_shim_exchange(const char *what, const void *mine, size_t bytes) {
    if (threads_ % WARP) vp_shim_stop("'%s' in a block of %zu threads", what, threads_);
    Warp &w = warps[running / WARP];
    memcpy(w.brought + LANE_BYTES * (running % WARP), mine, bytes);
    pause(EXCHANGE, what);
    return w.given;
}

uint32_t vp_ballot(bool yes) {
    uint32_t bits = 0;
    const unsigned char *all = vp_shim_exchange("ballot", &yes, sizeof yes);
    for (int i = 0; i < WARP; i++) bits |= (uint32_t)(all[LANE_BYTES * i] != 0) << i;
    return bits;
}

/* ---- tensor cores ---- */
static float low_of(uint32_t pair) {
    float x;
    pair <<= 16;
    memcpy(&x, &pair, sizeof x);
    return x;
}
static float high_of(uint32_t pair) {
    float x;
    pair &= 0xffff0000u;
    memcpy(&x, &pair, sizeof x);
    return x;
}

/* D += A B of 8 words of K: add(sum, x, y) adds the products of two words' numbers in their order. */
template <class F> static void multiply(float d[4], const uint32_t a[4], const uint32_t b[2], const char *what, F add) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]}, lane = running % WARP;
    const unsigned char *all = vp_shim_exchange(what, mine, sizeof mine);
    auto word = [&](uint32_t of, uint32_t i) {
        uint32_t w;
        memcpy(&w, all + LANE_BYTES * of + 4 * i, sizeof w);
        return w;
    };
    const uint32_t row = lane / 4, col = 2 * (lane % 4);
    float sum[4] = {};
    for (uint32_t k = 0; k < 8; k++) {
        const uint32_t t = k % 4, high = k / 4;
        const uint32_t x[2] = {word(row * 4 + t, 2 * high), word(row * 4 + t, 2 * high + 1)};
        const uint32_t y[2] = {word(col * 4 + t, 4 + high), word(col * 4 + 4 + t, 4 + high)};
        for (uint32_t i = 0; i < 4; i++) sum[i] = add(sum[i], x[i / 2], y[i % 2]);
    }
    for (uint32_t i = 0; i < 4; i++) d[i] += sum[i];
}
void vp_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    multiply(d, a, b, "mma", [](float sum, uint32_t x, uint32_t y) {
        sum += low_of(x) * low_of(y);
        return sum + high_of(x) * high_of(y);
    });
}
void vp_mma_f8(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    multiply(d, a, b, "mma of FP8", [](float sum, uint32_t x, uint32_t y) {
        for (int i = 0; i < 32; i += 8) sum += vp_f8_float(x >> i & 0xff) * vp_f8_float(y >> i & 0xff);
        return sum;
    });
}

void vp_shim_load_matrix4(uint32_t r[4], size_t at, bool transposed) {
    const uint32_t lane = running % WARP;
    if (at % 16) vp_shim_stop("a row of a matrix at %zu: not at a multiple of 16", at);
    uint64_t mine[2];
    memcpy(&mine[0], vp_shim_shared(at, 8, false), 8);
    memcpy(&mine[1], vp_shim_shared(at + 8, 8, false), 8);
    const unsigned char *all = vp_shim_exchange(transposed ? "transposed matrices" : "matrices", mine, sizeof mine);
    for (uint32_t i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t row = transposed ? 2 * (lane % 4) + j : lane / 4, col = transposed ? lane / 4 : 2 * (lane % 4) + j;
            memcpy(&pair[j], all + LANE_BYTES * (8 * i + row) + 2 * col, 2);
        }
        r[i] = (uint32_t)pair[0] | (uint32_t)pair[1] << 16;
    }
}

/* ---- asynchronous copies ---- */
void vp_shim_copy16(size_t to, const void *from, bool yes) {
    if (to % 16 || (yes && (uintptr_t)from % 16)) vp_shim_stop("an asynchronous copy not at a multiple of 16");
    fibers[running].groups.back().push_back({to, yes ? from : nullptr});
}

void vp_copy_commit() {
    fibers[running].groups.push_back({});
}

void vp_shim_copy_wait(int groups) {
    auto &all = fibers[running].groups;
    while (all.size() > (size_t)groups + 1) {
        for (const Copy &c : all.front())
            for (size_t i = 0; i < 16; i += 8) {
                unsigned char *to = vp_shim_shared(c.to + i, 8, true);
                if (c.from)
                    memcpy(to, (const char *)c.from + i, 8);
                else
                    memset(to, 0, 8);
            }
        all.erase(all.begin());
    }
}

/* ---- what products of warp groups need to know: group.cc ---- */
void vp_shim_publish() {
    fibers[running].unpublished = false;
}

bool vp_shim_published() {
    return published;
}

void vp_shim_pending(int more) {
    fibers[running].pending += more;
}

/* ---- recording ---- */
static thread_local std::vector<std::function<void()>> *record;

bool vp_shim_record(std::vector<std::function<void()>> *list) {
    const char *can = getenv("VP_SHIM_GRAPHS");
    record = can && !strcmp(can, "0") ? nullptr : list;
    return record == list;
}

void vp_shim_not_recorded(const char *what) {
    if (record) vp_shim_stop("a graph cannot hold %s", what);
}

/* ---- memory of the device: one range of addresses, closed to the host; what is freed is not given out again ---- */
static const size_t RANGE = (size_t)1 << 40, PAGE = 4096;
static char *range, *next_free;
static std::map<void *, size_t> given;
static std::atomic<size_t> taken;
static std::mutex memory;

static void open_range(bool yes) {
    if (next_free > range) mprotect(range, (size_t)(next_free - range), yes ? PROT_READ | PROT_WRITE : PROT_NONE);
}

size_t vp_shim_left() {
    const char *most = getenv("VP_SHIM_MEMORY");
    const size_t all = most ? strtoull(most, nullptr, 10) : RANGE;
    return all > taken ? all - taken : 0;
}

void *vp_shim_malloc(size_t bytes) {
    vp_shim_not_recorded("memory that is taken");
    std::lock_guard<std::mutex> lock(memory);
    if (!range) {
        void *p = mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        range = next_free = (char *)p;
    }
    if (bytes > RANGE / 4 || bytes > vp_shim_left() || RANGE - (size_t)(next_free - range) < bytes + 2 * PAGE)
        return nullptr;
    char *p = next_free;
    next_free += (bytes + PAGE - 1) / PAGE * PAGE;
    given[p] = bytes;
    taken += bytes;
    return p;
}

void vp_shim_free(void *p) {
    vp_shim_not_recorded("memory that is given back");
    std::lock_guard<std::mutex> lock(memory);
    auto it = given.find(p);
    if (!p) return;
    if (it == given.end()) vp_shim_stop("freed what is no memory of the device");
    madvise(p, (it->second + PAGE - 1) / PAGE * PAGE, MADV_DONTNEED);
    taken -= it->second;
    given.erase(it);
}

static std::map<char *, size_t> pinned;
static size_t pinned_bytes;

static bool is_pinned(char *p) {
    auto it = pinned.upper_bound(p);
    return it != pinned.begin() && p <= std::prev(it)->first + std::prev(it)->second;
}

static bool on_device(const void *p) {
    return range && p >= range && p < range + RANGE;
}

void vp_shim_copy(void *to, const void *from, size_t bytes) {
    if (record) return record->push_back([=] { vp_shim_copy(to, from, bytes); });
    std::lock_guard<std::mutex> lock(memory);
    if (getenv("VP_SHIM_PINNED") && on_device(from) && !on_device(to) && !is_pinned((char *)to)) {
        fprintf(stderr, "a copy of %zu bytes from the device to memory that is not pinned\n", bytes);
        abort();
    }
    open_range(true);
    memmove(to, from, bytes);
    open_range(false);
}

void *vp_shim_pin(size_t bytes) {
    std::lock_guard<std::mutex> lock(memory);
    const char *most = getenv("VP_SHIM_PINNED");
    if (most && bytes > strtoull(most, nullptr, 10) - pinned_bytes) return nullptr;
    char *p = (char *)malloc(bytes);
    if (!p) return nullptr;
    pinned[p] = bytes;
    pinned_bytes += bytes;
    return p;
}

void vp_shim_unpin(void *p) {
    std::lock_guard<std::mutex> lock(memory);
    auto it = pinned.find((char *)p);
    pinned_bytes -= it->second;
    pinned.erase(it);
    free(p);
}

void vp_shim_launch(const char *name, dim3 grid, unsigned threads, size_t bytes, const std::function<void()> &kernel) {
    if (record) return record->push_back([=] { vp_shim_launch(name, grid, threads, bytes, kernel); });
    std::lock_guard<std::mutex> launch(one_launch);
    std::lock_guard<std::mutex> lock(memory);
    kernel_name = name;
    kernel_call = &kernel;
    threads_ = threads;
    vp_shim_grid = grid;
    vp_shim_threads = dim3(threads, 1, 1);
    while (fibers.size() < threads) make_fiber(fibers.emplace_back());
    warps.resize((threads + WARP - 1) / WARP);
    shared.resize(bytes);
    shadow.resize(bytes / 2 + 1);
    open_range(true);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                vp_shim_block = dim3(x, y, z);
                run_block();
            }
    open_range(false);
}
