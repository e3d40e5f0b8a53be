/* Put before the C library: each fsync and fdatasync takes WAIT_US longer. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int then_wait(const char *name, int file)
{
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = sync(file);
    struct timespec wait = {WAIT_US / 1000000, WAIT_US % 1000000 * 1000};
    nanosleep(&wait, NULL);
    return result;
}

int fsync(int file) { return then_wait("fsync", file); }

int fdatasync(int file) { return then_wait("fdatasync", file); }
