/* The whole of the unit tests' framework: OK(condition, what...) prints one TAP line, done() the plan and main's
 * status. Write comparisons so that NaN fails: OK(diff <= bound, ...). */
#ifndef VP_TAP_H
#define VP_TAP_H
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_run, tap_failed;

__attribute__((format(printf, 4, 5))) static inline bool tap_ok(bool passed, const char *file, int line,
                                                                const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("%sok %d - ", passed ? "" : "not ", ++tap_run);
    vprintf(format, args);
    va_end(args);
    if (!passed) {
        tap_failed++;
        printf(" (%s:%d)", file, line);
    }
    putchar('\n');
    fflush(stdout); /* a crash later must not swallow what passed */
    return passed;
}

#define OK(condition, ...) tap_ok((condition), __FILE__, __LINE__, __VA_ARGS__)

static inline int done(void) {
    printf("1..%d\n", tap_run);
    return tap_failed != 0;
}

#endif
