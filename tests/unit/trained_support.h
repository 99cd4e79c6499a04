/* The gradient of a training step by central differences of its loss, through the trainer, for objectives that the unit
 * tests name. */
#ifndef VP_TRAINED_SUPPORT_H
#define VP_TRAINED_SUPPORT_H
#include "lib/model/training.h"
#include "lib/train/trainer.h"

typedef struct trained_case {
    const char *model, *what; /* a golden model; for messages */
    const char *attention, *pool;
    vp_objective_options objective;
    const vp_train_options *train;
    const vp_step *step;
    double tolerance; /* relative */
} trained_case;
enum { TRAINED_TEXT = 400 };
/* Whether along every trained tensor's own gradient the loss changes as its length says, and the gradient is the same
 * to the byte with activations that are kept and with those that are computed again; `text` says how it went. */
bool check_trained(const trained_case *c, char text[TRAINED_TEXT]);

#endif
