/* Bytes from a descriptor, by read(2), with zstd detected and decompressed. Shared by the frame reader and by lib/text.
 */
#ifndef VP_STREAM_INPUT_H
#define VP_STREAM_INPUT_H
#include "lib/base/base.h"

typedef struct vp_input vp_input;
/* `fd` is not closed; `name` ("standard input", or a path) is copied. Reads nothing yet. */
int vp_input_open(vp_input **in, int fd, const char *name, vp_error *err);
/* What is there: 1..n bytes, *got = 0 only at the end of input. Waits only when nothing is there. Never asks the
 * descriptor for more than n bytes, except for zstd, whose compressed bytes are read as they come. The first call looks
 * at the first bytes one at a time for as long as they could be zstd's magic number. VP_IO: a read failed. VP_UPSTREAM:
 * zstd data cut off. VP_DATA: zstd data damaged, or with a window above 128 MiB. */
int vp_input_read(vp_input *in, void *data, size_t n, size_t *got, vp_error *err);
/* The same until n bytes are there or the input ends (*got < n). */
int vp_input_full(vp_input *in, void *data, size_t n, size_t *got, vp_error *err);
/* True if vp_input_read would not wait; false once nothing came for timeout_ms (-1: for ever). Of zstd it decompresses
 * what came: bytes that make up no text yet are not ready. */
bool vp_input_ready(vp_input *in, int timeout_ms);
/* From now on a wait for input ends when `output`, the descriptor that the program writes to, is a pipe that nobody
 * reads any more: VP_IO with broken_pipe, as if it had written. Without it a filter outlives the rest of its pipeline
 * for as long as its input is silent. */
void vp_input_watch(vp_input *in, int output);
int64_t vp_input_offset(const vp_input *in); /* bytes handed out so far, after decompression */
void vp_input_close(vp_input *in);

#endif
