// Loads that each need the one before: a random cycle through 4 MiB, followed for as many millions of steps as
// the argument says.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS = (4 << 20) / sizeof(uint64_t) };
static uint64_t next[WORDS];

// Sattolo's shuffle: what it leaves is a single cycle.
static void shuffle(void) {
    uint64_t state = 0x9e3779b97f4a7c15;
    for (uint64_t i = 0; i < WORDS; i++)
        next[i] = i;
    for (uint64_t i = WORDS - 1; i > 0; i--) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        uint64_t j = state % i, kept = next[i];
        next[i] = next[j];
        next[j] = kept;
    }
}

int main(int argc, char **argv) {
    long steps = (argc > 1 ? atol(argv[1]) : 20) * 1000000;
    shuffle();
    uint64_t at = 0;
    while (steps-- > 0)
        at = next[at];
    printf("%llu\n", (unsigned long long)at);
}
