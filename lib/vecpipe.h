/* libvecpipe: everything that the programs use. The parts:
 *   base    statuses, errors, buffers, files, hashes        cli     options, help, progress
 *   file    model files: safetensors, GGUF
 *   stream  vecpipe/1 frames, columns, control maps         text    records, tokenizers, prompts, packing
 *   model   models, settings, encoding, pooling             index   vectors and texts on disk, search
 *   train   the order of the data, steps, what objectives hide, objectives, runs
 *   score   figures from vectors or hits and judgments       mine    hard negatives
 *   gen     generation
 * tools/ includes this header and no other of the project; the library includes kernels/ops.h below it. */
#ifndef VECPIPE_H
#define VECPIPE_H
#include "lib/base/base.h"
#include "lib/cli/cli.h"
#include "lib/stream/stream.h"
#include "lib/stream/look.h"
#include "lib/text/text.h"
#include "lib/text/feed.h"
#include "lib/text/input.h"
#include "lib/model/model.h"
#include "lib/model/ahead.h"
#include "lib/gen/gen.h"
#include "lib/gen/rerank.h"
#include "lib/index/index.h"
#include "lib/index/kv.h"
#include "lib/train/train.h"
#include "lib/train/steps.h"
#include "lib/train/mask.h"
#include "lib/train/objective.h"
#include "lib/train/losses.h"
#include "lib/train/run.h"
#include "lib/train/following.h"
#include "lib/score/score.h"
#include "lib/mine/mine.h"
#endif
