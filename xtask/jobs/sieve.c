// Sieve of Eratosthenes over the numbers below 2,000,000, as often as the argument says.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 2000000 };
static unsigned char composite[LIMIT];

static unsigned count_primes(void) {
    memset(composite, 0, sizeof composite);
    unsigned count = 0;
    for (unsigned n = 2; n < LIMIT; n++) {
        if (composite[n])
            continue;
        count++;
        for (unsigned long multiple = (unsigned long)n * n; multiple < LIMIT; multiple += n)
            composite[multiple] = 1;
    }
    return count;
}

int main(int argc, char **argv) {
    unsigned sum = 0;
    for (int rounds = argc > 1 ? atoi(argv[1]) : 20; rounds > 0; rounds--)
        sum += count_primes();
    printf("%u\n", sum);
}
