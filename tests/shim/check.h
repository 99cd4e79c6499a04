/* What the files of the check share: see check.cc. */
#ifndef VP_SHIM_CHECK_H
#define VP_SHIM_CHECK_H

struct fault {
    const char *name;
    void (*kernel)();
};
extern const fault group_faults[]; /* of warp groups, 128 threads; the last one has no name */
enum { GROUP_SHARED = 65536 };     /* bytes that they need */
/* Whether the same chunk of 8 consecutive rows lies in 8 different sixteenths of 128 bytes. */
template <class F> bool rows_lie_apart(unsigned rows, unsigned chunks, F place) {
    bool ok = true;
    for (unsigned row = 0; row < rows; row += 8)
        for (unsigned c = 0; c < chunks; c++) {
            unsigned banks = 0;
            for (unsigned i = 0; i < 8; i++) banks |= 1u << place(row + i, c) / 8 % 8;
            ok = ok && banks == 0xff;
        }
    return ok;
}
bool slabs_work();
bool group_products_work();

#endif
