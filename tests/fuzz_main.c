/* SPDX-License-Identifier: MIT */
/*
 * fuzz_main.c - how the targets are run. Under libFuzzer (-DLIBFUZZER) the target is named by the
 * variable FUZZ_TARGET. Otherwise:
 *
 *   fuzz-replay NAME FILE...     each file once: to see what an input does
 *   fuzz-replay NAME -n N DIR    the corpus DIR/NAME/ and N changes of each input, by a fixed seed
 *   fuzz-replay                  the names of the targets
 */
#include "fuzz.h"

#include <stdio.h>

#ifdef LIBFUZZER

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const struct fuzz_target *target;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZ_TARGET");

    (void)argc;
    (void)argv;
    target = name != NULL ? fuzz_find(name) : NULL;
    if (target == NULL) {
        fputs("FUZZ_TARGET names no target\n", stderr);
        exit(1);
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    if (n <= target->max)
        target->fn(p, n); /* libFuzzer's copy has just this size already */
    return 0;
}

#else

static void
run_file(const struct fuzz_target *t, const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = xmalloc(t->max);

    if (f == NULL) {
        perror(path);
        exit(1);
    }
    size_t n = fread(p, 1, t->max, f);
    fclose(f);
    fuzz_run(t, p, n);
    free(p);
    printf("%s: %zu bytes\n", path, n);
}

int
main(int argc, char **argv)
{
    const struct fuzz_target *t = argc > 1 ? fuzz_find(argv[1]) : NULL;

    if (t == NULL) {
        for (t = fuzz_targets; t->name != NULL; t++)
            printf("%s\n", t->name);
        return argc > 1;
    }
    if (argc == 5 && strcmp(argv[2], "-n") == 0) {
        printf("%lu inputs\n", fuzz_replay(t, argv[4], (unsigned)strtoul(argv[3], NULL, 10)));
        return 0;
    }
    for (int i = 2; i < argc; i++)
        run_file(t, argv[i]);
    return 0;
}

#endif
