/* Put before the C library: each fsync and fdatasync takes FISCUS_BENCH_FSYNC_US longer. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int then_wait(const char *name, int file)
{
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = sync(file);
    const char *told = getenv("FISCUS_BENCH_FSYNC_US");
    long us = told ? atol(told) : 0;
    struct timespec wait = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&wait, NULL);
    return result;
}

int fsync(int file) { return then_wait("fsync", file); }

int fdatasync(int file) { return then_wait("fdatasync", file); }
