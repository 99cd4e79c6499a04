/* What the files of the check share: see check.cc. */
#ifndef VP_SHIM_CHECK_H
#define VP_SHIM_CHECK_H

struct fault {
    const char *name;
    void (*kernel)();
};
extern const fault group_faults[]; /* of warp groups, 128 threads; the last one has no name */
enum { GROUP_SHARED = 65536 };     /* bytes that they need */
bool slabs_work();
bool group_products_work();

#endif
