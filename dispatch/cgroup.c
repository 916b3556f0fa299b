// The CPU quota of this process's control group: cpu.max of version 2, cpu.cfs_quota_us and cpu.cfs_period_us of
// version 1, both where a host has both. A quota binds all that lies below it, so the smallest from the process's own
// folder up to the root of each mount counts. A container sees only part of the tree, or none of its own path: then the
// root of what it sees is its own group.
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"

// A mount of a hierarchy that may hold CPU quotas, cut from a line of mountinfo (proc(5)).
typedef struct mount {
    char *root, *point; // the folder of the hierarchy that is mounted, and where
    bool unified;       // version 2
} mount;

static bool lists(const char *list, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == 0)) return true;
    }
    return false;
}

// Blanks in paths stand as \040 and the like.
static void unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned code;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1 && code) {
            *to = (char)code, from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = 0;
}

// "36 35 98:0 /root /point rw,noatime shared:1 - cgroup2 source rw": any number of words stands before the dash.
static bool parse_mount(char *line, mount *m) {
    enum { ROOT = 3, POINT = 4, TAIL = 3 };
    char *words[POINT + 1] = {0}, *tail[TAIL] = {0}, *state = NULL;
    size_t count = 0, behind = 0;
    bool dash = false;
    for (char *word = strtok_r(line, " \n", &state); word; word = strtok_r(NULL, " \n", &state)) {
        if (dash && behind < TAIL) tail[behind++] = word;
        if (!dash && count <= POINT) words[count++] = word;
        dash = dash || (count > POINT && strcmp(word, "-") == 0);
    }
    if (behind < TAIL) return false;
    *m = (mount){words[ROOT], words[POINT], strcmp(tail[0], "cgroup2") == 0};
    unescape(m->root);
    unescape(m->point);
    return m->unified || (strcmp(tail[0], "cgroup") == 0 && lists(tail[2], "cpu"));
}

// The first `count` numbers of a file; fewer count as none ("max" is no quota).
static bool read_numbers(const char *folder, const char *name, size_t count, long long numbers[]) {
    char path[4 * PATH_MAX], text[128];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path) return false;
    FILE *file = fopen(path, "re");
    if (!file) return false;
    const char *at = fgets(text, sizeof text, file);
    fclose(file);
    for (size_t i = 0; at && i < count; i++) {
        char *end;
        errno = 0;
        numbers[i] = strtoll(at, &end, 10);
        at = end == at || errno ? NULL : end;
    }
    return at != NULL;
}

static double quota_of(const char *folder, bool unified) {
    long long numbers[2]; // quota and period in microseconds
    bool told = unified ? read_numbers(folder, "cpu.max", 2, numbers)
                        : read_numbers(folder, "cpu.cfs_quota_us", 1, numbers) &&
                              read_numbers(folder, "cpu.cfs_period_us", 1, numbers + 1);
    return told && numbers[0] > 0 && numbers[1] > 0 ? (double)numbers[0] / (double)numbers[1] : 0;
}

// What of a process's path lies below a mount: "" where that cannot be seen.
static const char *below(const char *path, const char *root) {
    const size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, length) != 0 || (path[length] != '/' && path[length] != 0)) return "";
    return strstr(path, "/..") ? "" : path + length;
}

// The smaller of `smallest` and the quotas from the process's folder up to the mount; 0 is none.
static double walk(const char *prefix, const mount *m, const char *path, double smallest) {
    char folder[4 * PATH_MAX];
    const size_t root = strlen(prefix) + strlen(m->point);
    const int length = snprintf(folder, sizeof folder, "%s%s%s", prefix, m->point, below(path, m->root));
    if (length < 0 || (size_t)length >= sizeof folder) return smallest;
    for (;;) {
        double cpus = quota_of(folder, m->unified);
        if (cpus > 0 && (smallest == 0 || cpus < smallest)) smallest = cpus;
        char *slash = strrchr(folder, '/');
        if (!slash || strlen(folder) <= root) return smallest;
        *slash = 0;
    }
}

// "4:cpu,cpuacct:/path" or, of version 2, "0::/path".
static double walk_own(const char *prefix, const mount *m, double smallest) {
    char name[PATH_MAX], *line = NULL;
    size_t size = 0;
    snprintf(name, sizeof name, "%s/proc/self/cgroup", prefix);
    FILE *file = fopen(name, "re");
    if (!file) return smallest;
    while (getline(&line, &size, file) > 0) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) continue;
        *list++ = 0, *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        if (m->unified ? *list == 0 : lists(list, "cpu")) smallest = walk(prefix, m, path, smallest);
    }
    free(line);
    fclose(file);
    return smallest;
}

double lod_cgroup_quota(const char *prefix) {
    char name[PATH_MAX], *line = NULL;
    size_t size = 0;
    double smallest = 0;
    snprintf(name, sizeof name, "%s/proc/self/mountinfo", prefix);
    FILE *file = fopen(name, "re");
    if (!file) return 0;
    while (getline(&line, &size, file) > 0) {
        mount m;
        if (parse_mount(line, &m)) smallest = walk_own(prefix, &m, smallest);
    }
    free(line);
    fclose(file);
    return smallest;
}
