// How long the parts of a thread's calls take, where it asks for that.
#ifndef PACELINE_CLOCKS_H
#define PACELINE_CLOCKS_H

#include <stdint.h>

enum { TIME_PRODUCTS, TIME_ATTENTION, TIME_BETWEEN, TIME_HEAD };  // KernelPart of kernel_clocks.py

// Count the calls of this thread from now on: nanoseconds[part] grows; NULL counts nothing.
void kernels_clocks(int64_t *nanoseconds);

void begin_call(void);    // what follows is part of a call
void end_part(int part);   // the time since the last end, or the beginning, was this part's
int64_t products_time(void);
void move_to_head(int64_t before);  // all products since products_time() was `before` are the head's

#endif
