/* --help: usage, options with the values that hold if nothing is given, notes; at most 80 columns. */
#include "lib/cli/internal.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 29, HELP_WIDTH = 79 };

/* Words of the line `text` [n] from column `at`, continued at column `indent`; ends the line. Blanks within are kept.
 */
static void print_wrapped(const char *text, size_t n, int at, int indent) {
    bool fresh = true; /* nothing of the text stands on this line yet */
    for (const char *end = text + n; text < end; fresh = false) {
        size_t blanks = strspn(text, " \n"), letters = strcspn(text + blanks, " \n");
        int gap = (int)blanks, word = (int)letters;
        if (!fresh && at + gap + word > HELP_WIDTH) {
            putchar('\n');
            at = gap = 0;
        }
        if (at < indent) gap = indent - at;
        printf("%*s%.*s", gap, "", word, text + blanks);
        at += gap + word;
        text += blanks + letters;
    }
    putchar('\n');
}

/* Lines as they are; one that is too wide is filled up together with those that follow, to the next that is not. */
static void print_notes(const char *notes) {
    putchar('\n');
    while (*notes) {
        size_t n = strcspn(notes, "\n");
        for (size_t line = n; line > HELP_WIDTH && notes[n] && notes[n + 1]; n += 1 + line)
            line = strcspn(notes + n + 1, "\n");
        print_wrapped(notes, n, 0, 0);
        notes += n + (notes[n] == '\n');
    }
}

/* " [default]" with the value that the target holds now; nothing for what is empty or off. */
static void describe_default(const vp_option *o, char *out, size_t cap) {
    out[0] = '\0';
    switch (o->kind) {
    case VP_OPT_FLAG:
        return;
    case VP_OPT_STRING: {
        const char *s = *(const char *const *)o->target;
        if (s) snprintf(out, cap, " [%s]", *s ? s : "empty");
        return;
    }
    case VP_OPT_AUTO:
        if (*(const int64_t *)o->target == 0) {
            snprintf(out, cap, " [auto]");
            return;
        }
        /* fallthrough */
    case VP_OPT_INT:
        snprintf(out, cap, " [%" PRId64 "]", *(const int64_t *)o->target);
        return;
    case VP_OPT_REAL:
        snprintf(out, cap, " [%g]", *(const double *)o->target);
        return;
    case VP_OPT_CHOICE: {
        const char *c = o->choices;
        for (int i = *(const int *)o->target; i > 0; i--) c += strcspn(c, "|") + 1;
        snprintf(out, cap, " [%.*s]", (int)strcspn(c, "|"), c);
        return;
    }
    case VP_OPT_LIST:
    case VP_OPT_GROUP:
        return;
    }
}

static void print_option(const vp_option *o) {
    if (o->kind == VP_OPT_GROUP) {
        printf("\n%s:\n", o->help);
        return;
    }
    int at = o->letter ? printf("  -%c, ", o->letter) : printf("      ");
    at += printf("--%s", o->name);
    if (o->kind != VP_OPT_FLAG) {
        const char *value = o->value ? o->value : o->choices;
        at += printf(" %s", value ? value : "VALUE");
    }
    char text[600], standing[300];
    describe_default(o, standing, sizeof standing);
    snprintf(text, sizeof text, "%s%s", o->help, standing);
    if (at + 2 > HELP_COLUMN) {
        putchar('\n');
        at = 0;
    }
    print_wrapped(text, strlen(text), at, HELP_COLUMN);
}

void vp_cli_print_help(const vp_program *p) {
    printf("%s: %s\n", p->name, p->summary);
    const char *label = "Usage:";
    for (const char *line = p->usage; *line; label = "") {
        int n = (int)strcspn(line, "\n");
        printf("%6s %.*s\n", label, n, line);
        line += n + (line[n] == '\n');
    }
    if (p->options && p->options[0].kind != VP_OPT_GROUP && p->options[0].name) printf("\nOptions:\n");
    for (const vp_option *o = p->options; o && (o->name || o->kind == VP_OPT_GROUP); o++) print_option(o);
    for (const vp_option *o = vp_cli_common; o->name || o->kind == VP_OPT_GROUP; o++) print_option(o);
    if (p->notes) print_notes(p->notes);
}
