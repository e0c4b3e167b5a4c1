/* Preloaded, it notes each file operation of a process below one folder in order, and makes chosen ones fail.
 * It can also make the clock wrong.
 *
 * tests/faults.py arms it and reads its notes. A note is a line with tabs: kind, size, inode, offset, path,
 * second path; after the line of a write stand its `size` bytes. An operation and its note are one step: no
 * other thread's operation comes between them. What would change nothing anyway does not count.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITING = 1, READING = 2 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static int notes = -1;         /* the file of the notes */
static int kinds, failure;     /* the operations that count, and the error of those that fail */
static long first, last;       /* which of them fail, from 1 */
static long count;             /* how many there were */
static long seconds, moved_at; /* the clock is so wrong, from that operation on */

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Begin to watch a folder. */
void faults_arm(const char *below, const char *note_file, long which, long from, long to, long error,
                long wrong_by, long wrong_from) {
    strcpy(folder, below);
    notes = open(note_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    kinds = which, first = from, last = to, failure = error, seconds = wrong_by, moved_at = wrong_from;
}

static int watched(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int of_descriptor(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = *folder ? readlink(link, path, PATH_MAX - 1) : -1;
    path[size < 0 ? 0 : size] = 0;
    return watched(path);
}

static int of_name(int base, const char *name, char *path) {
    char start[PATH_MAX] = "";
    if (*folder && *name != '/') {
        if (base != AT_FDCWD) of_descriptor(base, start);
        else if (!getcwd(start, sizeof start)) *start = 0;
    }
    if (snprintf(path, PATH_MAX, "%s%s%s", start, *start ? "/" : "", name) >= PATH_MAX) *path = 0;
    return watched(path);
}

static void note(const char *kind, long size, int fd, off_t offset, const char *path, const char *other) {
    int before = errno;
    char line[2 * PATH_MAX + 100];
    struct stat status = {0};
    if (fd >= 0 ? fstat(fd, &status) : lstat(path, &status)) status.st_ino = 0;
    int length = snprintf(line, sizeof line, "%s\t%ld\t%lu\t%ld\t%s\t%s\n", kind, size,
                          (unsigned long)status.st_ino, (long)offset, path, other);
    if (notes >= 0 && write(notes, line, length) != length) _exit(99);
    errno = before;
}

__attribute__((destructor)) static void at_the_end(void) { note("end", count, -1, 0, "", ""); }

/* Count an operation; true, after a note, if it has to fail. */
static int fails(int kind, const char *what, const char *path) {
    if (!(kinds & kind)) return 0;
    count++;
    if (count < first || count > last) return 0;
    if (failure == ENOSPC && strstr("remove truncate access", what)) return 0; /* they work on a full disk */
    errno = failure;
    note("fail", count, -1, 0, path, what);
    return 1;
}

static int exists(const char *path) {
    struct stat status;
    return !lstat(path, &status);
}

/* Do an operation that changes a folder, unless it has to fail. */
#define CHANGE(kind, call, size, path, other) ({ \
    pthread_mutex_lock(&lock); \
    int result = fails(WRITING, kind, path) ? -1 : (call); \
    if (!result) note(kind, size, -1, 0, path, other); \
    pthread_mutex_unlock(&lock); \
    result; })

static int opened(int base, const char *name, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    char path[PATH_MAX];
    if (!of_name(base, name, path)) return real(base, name, flags, mode);
    int writes = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && !exists(path);
    int fd = fails(writes ? WRITING : READING, "open", path) ? -1 : real(base, name, flags, mode);
    if (fd >= 0 && is_new) note("create", 0, fd, 0, path, "");
    else if (fd >= 0 && flags & O_TRUNC) note("truncate", 0, fd, 0, path, "");
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE() ({ \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    mode; })

int open(const char *name, int flags, ...) { return opened(AT_FDCWD, name, flags, MODE()); }
int open64(const char *name, int flags, ...) { return opened(AT_FDCWD, name, flags, MODE()); }
int openat(int base, const char *name, int flags, ...) { return opened(base, name, flags, MODE()); }
int openat64(int base, const char *name, int flags, ...) { return opened(base, name, flags, MODE()); }
int __open_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags, 0); }
int __openat_2(int base, const char *name, int flags) { return opened(base, name, flags, 0); }
int __openat64_2(int base, const char *name, int flags) { return opened(base, name, flags, 0); }
int creat(const char *name, mode_t mode) {
    return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static ssize_t written(int fd, const struct iovec *parts, int number, off_t offset) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    static ssize_t (*real_at)(int, const struct iovec *, int, off_t);
    if (!real_at) real_at = (ssize_t (*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
    char path[PATH_MAX];
    int is_watched = of_descriptor(fd, path);
    if (is_watched) pthread_mutex_lock(&lock);
    ssize_t size = -1;
    if (!is_watched || !fails(WRITING, "write", path))
        size = offset < 0 ? real(fd, parts, number) : real_at(fd, parts, number, offset);
    else if (failure == ENOSPC && count == first && offset < 0) /* a disk that gets full takes a part */
        size = real(fd, &(struct iovec){parts->iov_base, (parts->iov_len + 1) / 2}, 1);
    if (!is_watched) return size;
    if (size >= 0) {
        note("write", size, fd, offset < 0 ? lseek(fd, 0, SEEK_CUR) - size : offset, path, "");
        for (ssize_t left = size, i = 0; notes >= 0 && left > 0; left -= parts[i++].iov_len) {
            ssize_t length = left < (ssize_t)parts[i].iov_len ? left : (ssize_t)parts[i].iov_len;
            if (real(notes, &(struct iovec){parts[i].iov_base, length}, 1) != length) _exit(99);
        }
    }
    pthread_mutex_unlock(&lock);
    return size;
}

#define ONE (&(struct iovec){(void *)bytes, size}), 1
ssize_t write(int fd, const void *bytes, size_t size) { return written(fd, ONE, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return written(fd, ONE, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) { return written(fd, ONE, offset); }
ssize_t writev(int fd, const struct iovec *parts, int number) { return written(fd, parts, number, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) {
    return written(fd, parts, number, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int number, off_t offset) {
    return written(fd, parts, number, offset);
}

#define ON_DESCRIPTOR(kind, call, size) ({ \
    char path[PATH_MAX]; \
    int is_watched = of_descriptor(fd, path), result; \
    if (is_watched) pthread_mutex_lock(&lock); \
    result = is_watched && fails(WRITING, kind, path) ? -1 : (call); \
    if (is_watched && !result) note(kind, size, fd, 0, path, ""); \
    if (is_watched) pthread_mutex_unlock(&lock); \
    result; })

int fsync(int fd) { REAL(int, fsync, int); return ON_DESCRIPTOR("flush", real(fd), 0); }
int fdatasync(int fd) { REAL(int, fdatasync, int); return ON_DESCRIPTOR("flush", real(fd), 0); }
int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t);
    return ON_DESCRIPTOR("truncate", real(fd, size), size);
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int truncate(const char *name, off_t size) {
    REAL(int, truncate, const char *, off_t);
    char path[PATH_MAX];
    return of_name(AT_FDCWD, name, path) ? CHANGE("truncate", real(name, size), size, path, "")
                                         : real(name, size);
}
int truncate64(const char *name, off_t size) { return truncate(name, size); }

int mkdirat(int base, const char *name, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char path[PATH_MAX];
    int is_watched = of_name(base, name, path) && !exists(path);
    return is_watched ? CHANGE("mkdir", real(base, name, mode), 0, path, "") : real(base, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int unlinkat(int base, const char *name, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char path[PATH_MAX];
    int is_watched = of_name(base, name, path) && exists(path);
    return is_watched ? CHANGE("remove", real(base, name, flags), 0, path, "") : real(base, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int renameat(int base, const char *name, int new_base, const char *new_name) {
    REAL(int, renameat, int, const char *, int, const char *);
    char path[PATH_MAX], other[PATH_MAX];
    int is_watched = of_name(base, name, path) | of_name(new_base, new_name, other);
    return is_watched ? CHANGE("rename", real(base, name, new_base, new_name), 0, path, other)
                      : real(base, name, new_base, new_name);
}
int rename(const char *name, const char *new_name) {
    return renameat(AT_FDCWD, name, AT_FDCWD, new_name);
}

int faccessat(int base, const char *name, int mode, int flags) {
    REAL(int, faccessat, int, const char *, int, int);
    char path[PATH_MAX];
    int is_watched = of_name(base, name, path) && mode & W_OK;
    return is_watched ? CHANGE("access", real(base, name, mode, flags), 0, path, "")
                      : real(base, name, mode, flags);
}
int access(const char *name, int mode) { return faccessat(AT_FDCWD, name, mode, 0); }

#define FAILS_TO_READ(what, is_watched) ({ \
    int result = 0; \
    if (is_watched) { \
        pthread_mutex_lock(&lock); \
        result = fails(READING, what, path); \
        pthread_mutex_unlock(&lock); \
    } \
    result; })

ssize_t read(int fd, void *bytes, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    char path[PATH_MAX];
    return FAILS_TO_READ("read", of_descriptor(fd, path)) ? -1 : real(fd, bytes, size);
}
ssize_t pread(int fd, void *bytes, size_t size, off_t offset) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    char path[PATH_MAX];
    return FAILS_TO_READ("read", of_descriptor(fd, path)) ? -1 : real(fd, bytes, size, offset);
}
ssize_t pread64(int fd, void *bytes, size_t size, off_t offset) { return pread(fd, bytes, size, offset); }

DIR *opendir(const char *name) {
    REAL(DIR *, opendir, const char *);
    char path[PATH_MAX];
    return FAILS_TO_READ("list", of_name(AT_FDCWD, name, path)) ? NULL : real(name);
}
struct dirent *readdir(DIR *dir) {
    REAL(struct dirent *, readdir, DIR *);
    char path[PATH_MAX];
    return FAILS_TO_READ("list", of_descriptor(dirfd(dir), path)) ? NULL : real(dir);
}
struct dirent64 *readdir64(DIR *dir) {
    REAL(struct dirent64 *, readdir64, DIR *);
    char path[PATH_MAX];
    return FAILS_TO_READ("list", of_descriptor(dirfd(dir), path)) ? NULL : real(dir);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && count >= moved_at) time->tv_sec += seconds;
    return result;
}
time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict result, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *result = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
