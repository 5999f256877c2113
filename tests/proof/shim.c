/* Counts the durability calls of a process, and lets the n-th of them kill or fail.
 *
 * Loaded with LD_PRELOAD. $PROOF_SHIM names a file of struct control that both sides
 * map; a process without it is left alone. Only calls on paths below `prefix` count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, WRITE, FSYNC, CLOSE, RENAME, LINK, UNLINK, MKDIR, TRUNCATE, READ };
/* LOSE fails; an fsync loses what was written since the last one, as Linux does. */
enum action { NONE, KILL_BEFORE, FAIL, SHORT_WRITE, LOSE };
static const char *const names[] = {"open",   "write", "fsync", "close",   "rename",
                                    "link",   "unlink", "mkdir", "truncate", "read"};

struct control {
    int64_t count;   /* calls counted so far */
    int64_t at;      /* the first call that is met, 1-based */
    int64_t times;   /* how many calls are met from there on */
    int64_t met;     /* how many were */
    int32_t action;  /* enum action */
    int32_t error;   /* errno of FAIL and LOSE */
    uint32_t kinds;  /* bit set of enum kind */
    int32_t log;     /* not 0: append "kind path" to the control file's name + ".log" */
    char prefix[256];
};

static struct control *control;
static int log_fd = -1;

static struct control *mapped(void) {
    if (control) return control;
    const char *path = getenv("PROOF_SHIM");
    if (!path) return NULL;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return NULL;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (found == MAP_FAILED) return NULL;
    control = found;
    if (control->log) {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s.log", path);
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, name,
                              O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
    return control;
}

static int path_of_fd(int fd, char *out, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, out, size - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return 1;
}

static int path_at(int folder, const char *name, char *out, size_t size) {
    if (name[0] == '/') {
        snprintf(out, size, "%s", name);
        return 1;
    }
    char base[PATH_MAX / 2];
    if (folder == AT_FDCWD ? !getcwd(base, sizeof base)
                           : !path_of_fd(folder, base, sizeof base))
        return 0;
    snprintf(out, size, "%s/%s", base, name);
    return 1;
}

/* Count one call; return the action that it meets. */
static enum action meet(enum kind kind, const char *path) {
    struct control *c = control;
    if (strncmp(path, c->prefix, strlen(c->prefix)) != 0) return NONE;
    if (!(c->kinds >> kind & 1)) return NONE;
    int64_t number = __atomic_add_fetch(&c->count, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        char line[PATH_MAX + 32];
        int length = snprintf(line, sizeof line, "%s %s\n", names[kind], path);
        syscall(SYS_write, log_fd, line, (size_t)length);
    }
    if (c->action == NONE || number < c->at || number - c->at >= c->times) return NONE;
    __atomic_add_fetch(&c->met, 1, __ATOMIC_SEQ_CST);
    if (c->action == KILL_BEFORE) syscall(SYS_kill, getpid(), SIGKILL);
    return (enum action)c->action;
}

static enum action meet_fd(enum kind kind, int fd) {
    char path[PATH_MAX];
    int kept = errno;
    enum action found = NONE;
    if (mapped() && path_of_fd(fd, path, sizeof path)) found = meet(kind, path);
    errno = kept;
    return found;
}

static enum action meet_at(enum kind kind, int folder, const char *name) {
    char path[PATH_MAX];
    int kept = errno;
    enum action found = NONE;
    if (mapped() && path_at(folder, name, path, sizeof path)) found = meet(kind, path);
    errno = kept;
    return found;
}

#define REAL(type, name, ...)                                          \
    static type (*real)(__VA_ARGS__);                                  \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define FAILS(action)                              \
    if ((action) == FAIL || (action) == LOSE) {    \
        errno = control->error;                    \
        return -1;                                 \
    }

enum { FDS = 4096 };
/* By descriptor: 1 + where the first byte lies that no fsync has seen; 0 if none. */
static int64_t unsynced[FDS];

static void wrote(int fd, int64_t at, ssize_t done) {
    if (done > 0 && fd < FDS && (!unsynced[fd] || at < unsynced[fd] - 1))
        unsynced[fd] = at + 1;
}

static void synced(int fd) {
    if (fd >= 0 && fd < FDS) unsynced[fd] = 0;
}

static void lose(int fd) {
    static const char zeros[65536];
    struct stat about;
    if (fd >= FDS || !unsynced[fd] || fstat(fd, &about)) return;
    for (off64_t at = unsynced[fd] - 1; at < about.st_size;) {
        size_t rest = (size_t)(about.st_size - at);
        ssize_t done = syscall(SYS_pwrite64, fd, zeros,
                               rest < sizeof zeros ? rest : sizeof zeros, at);
        if (done <= 0) break;
        at += done;
    }
    unsynced[fd] = 0;
}

static enum kind opened(int flags) {
    return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? OPEN : READ;
}

#define OPENS(name)                                                 \
    int name(const char *path, int flags, ...) {                    \
        REAL(int, name, const char *, int, ...);                    \
        va_list more;                                               \
        va_start(more, flags);                                      \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more);                                               \
        enum action action = meet_at(opened(flags), AT_FDCWD, path);         \
        FAILS(action)                                               \
        int fd = real(path, flags, mode);                           \
        synced(fd);                                                 \
        return fd;                                                  \
    }
OPENS(open)
OPENS(open64)

#define OPENATS(name)                                               \
    int name(int folder, const char *path, int flags, ...) {        \
        REAL(int, name, int, const char *, int, ...);               \
        va_list more;                                               \
        va_start(more, flags);                                      \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more);                                               \
        enum action action = meet_at(opened(flags), folder, path);           \
        FAILS(action)                                               \
        int fd = real(folder, path, flags, mode);                   \
        synced(fd);                                                 \
        return fd;                                                  \
    }
OPENATS(openat)
OPENATS(openat64)

static size_t shortened(enum action action, size_t size) {
    return action == SHORT_WRITE && size > 1 ? size / 2 : size;
}

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    enum action action = meet_fd(WRITE, fd);
    FAILS(action)
    off64_t at = lseek64(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, bytes, shortened(action, size));
    if (at >= 0) wrote(fd, at, done);
    return done;
}

#define PWRITES(name)                                                \
    ssize_t name(int fd, const void *bytes, size_t size, off64_t at) { \
        REAL(ssize_t, name, int, const void *, size_t, off64_t);     \
        enum action action = meet_fd(WRITE, fd);                     \
        FAILS(action)                                                \
        ssize_t done = real(fd, bytes, shortened(action, size), at); \
        wrote(fd, at, done);                                         \
        return done;                                                 \
    }
PWRITES(pwrite)
PWRITES(pwrite64)

/* Half of the first part, where fewer bytes are to be written. */
static const struct iovec *fewer(enum action action, const struct iovec *parts,
                                 int *count, struct iovec *half) {
    if (action != SHORT_WRITE || *count < 1) return parts;
    *half = parts[0];
    half->iov_len = shortened(action, half->iov_len);
    *count = 1;
    return half;
}

#define WRITEVS(name, parameters, types, where, ...)             \
    ssize_t name parameters {                                    \
        static ssize_t(*real) types;                             \
        if (!real) real = (ssize_t(*) types)dlsym(RTLD_NEXT, #name); \
        enum action action = meet_fd(WRITE, fd);                 \
        FAILS(action)                                            \
        struct iovec half;                                       \
        parts = fewer(action, parts, &count, &half);             \
        off64_t from = where;                                    \
        ssize_t done = real(fd, parts, count, ##__VA_ARGS__);    \
        if (from >= 0) wrote(fd, from, done);                    \
        return done;                                             \
    }
WRITEVS(writev, (int fd, const struct iovec *parts, int count),
        (int, const struct iovec *, int), lseek64(fd, 0, SEEK_CUR))
WRITEVS(pwritev, (int fd, const struct iovec *parts, int count, off64_t at),
        (int, const struct iovec *, int, off64_t), at, at)
WRITEVS(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at),
        (int, const struct iovec *, int, off64_t), at, at)
WRITEVS(pwritev2, (int fd, const struct iovec *parts, int count, off64_t at, int flags),
        (int, const struct iovec *, int, off64_t, int), at, at, flags)
WRITEVS(pwritev64v2,
        (int fd, const struct iovec *parts, int count, off64_t at, int flags),
        (int, const struct iovec *, int, off64_t, int), at, at, flags)

#define ONE_FD(name, kind)                       \
    int name(int fd) {                           \
        REAL(int, name, int);                    \
        enum action action = meet_fd(kind, fd);  \
        if (action == LOSE && (kind) == FSYNC) lose(fd); \
        if (action >= FAIL && (kind) == CLOSE) real(fd); \
        FAILS(action)                            \
        int done = real(fd);                     \
        if (!done) synced(fd);                   \
        return done;                             \
    }
ONE_FD(fsync, FSYNC)
ONE_FD(fdatasync, FSYNC)
ONE_FD(close, CLOSE)

#define TRUNCATES(name)                             \
    int name(int fd, off64_t size) {                \
        REAL(int, name, int, off64_t);              \
        enum action action = meet_fd(TRUNCATE, fd); \
        FAILS(action)                               \
        return real(fd, size);                      \
    }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

#define ALLOCATES(name)                                   \
    int name(int fd, int mode, off64_t at, off64_t size) { \
        REAL(int, name, int, int, off64_t, off64_t);      \
        enum action action = meet_fd(TRUNCATE, fd);       \
        FAILS(action)                                     \
        return real(fd, mode, at, size);                  \
    }
ALLOCATES(fallocate)
ALLOCATES(fallocate64)

/* TWO(definition, its arguments as passed on, folder and name that count) */
#define TWO(name, kind, folder, path, parameters, types, passed) \
    int name parameters {                                        \
        static int(*real) types;                                 \
        if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
        enum action action = meet_at(kind, folder, path);        \
        FAILS(action)                                            \
        return real passed;                                      \
    }
TWO(rename, RENAME, AT_FDCWD, b, (const char *a, const char *b),
    (const char *, const char *), (a, b))
TWO(renameat, RENAME, d, b, (int c, const char *a, int d, const char *b),
    (int, const char *, int, const char *), (c, a, d, b))
TWO(renameat2, RENAME, d, b, (int c, const char *a, int d, const char *b, unsigned f),
    (int, const char *, int, const char *, unsigned), (c, a, d, b, f))
TWO(link, LINK, AT_FDCWD, b, (const char *a, const char *b),
    (const char *, const char *), (a, b))
TWO(linkat, LINK, d, b, (int c, const char *a, int d, const char *b, int f),
    (int, const char *, int, const char *, int), (c, a, d, b, f))
TWO(unlink, UNLINK, AT_FDCWD, a, (const char *a), (const char *), (a))
TWO(unlinkat, UNLINK, d, a, (int d, const char *a, int f), (int, const char *, int),
    (d, a, f))
TWO(mkdir, MKDIR, AT_FDCWD, a, (const char *a, mode_t m), (const char *, mode_t), (a, m))
TWO(mkdirat, MKDIR, d, a, (int d, const char *a, mode_t m), (int, const char *, mode_t),
    (d, a, m))
