/* What the files of lib/cli share and nobody else sees. */
#ifndef VP_CLI_INTERNAL_H
#define VP_CLI_INTERNAL_H
#include "lib/cli/cli.h"

extern const vp_option vp_cli_common[]; /* --help ... --log; ended by {0} */
void vp_cli_print_help(const vp_program *p);

const char *vp_cli_program(void); /* as given to vp_cli_start */
void vp_cli_set_verbosity(bool verbose, bool quiet);
/* What --log names; NULL: no log. Closing says "end" with the status and the error, and reports a write that failed. */
int vp_cli_log_open(const char *path, vp_error *err);
int vp_cli_log_close(int status, vp_error *err);
/* One line "program: TEXT" on standard error in one write, after erasing a progress line. */
void vp_cli_line(const char *text);
/* Replace the progress line (NULL: erase it). */
void vp_cli_status_line(const char *text);

#endif
