// Fourier transform of 65,536 complex numbers and back again, as often as the argument says.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BITS = 16, SIZE = 1 << BITS };
static double re[SIZE], im[SIZE], cosine[SIZE / 2], sine[SIZE / 2];

static void swap(double *a, double *b) {
    double kept = *a;
    *a = *b;
    *b = kept;
}

static void transform(double direction) {
    for (unsigned i = 0, mirror = 0; i < SIZE; i++) {
        if (i < mirror) {
            swap(&re[i], &re[mirror]);
            swap(&im[i], &im[mirror]);
        }
        unsigned bit = SIZE >> 1;
        for (; mirror & bit; bit >>= 1)
            mirror ^= bit;
        mirror |= bit;
    }
    for (unsigned half = 1; half < SIZE; half *= 2)
        for (unsigned start = 0; start < SIZE; start += 2 * half)
            for (unsigned k = 0; k < half; k++) {
                unsigned turn = k * (SIZE / 2 / half), a = start + k, b = a + half;
                double c = cosine[turn], s = direction * sine[turn];
                double x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
                re[b] = re[a] - x;
                im[b] = im[a] - y;
                re[a] += x;
                im[a] += y;
            }
}

int main(int argc, char **argv) {
    double sum = 0, turn = -2 * acos(-1) / SIZE;
    for (int i = 0; i < SIZE / 2; i++) {
        cosine[i] = cos(i * turn);
        sine[i] = sin(i * turn);
    }
    for (int i = 0; i < SIZE; i++)
        re[i] = i % 101 / 7.0;
    for (int rounds = argc > 1 ? atoi(argv[1]) : 10; rounds > 0; rounds--) {
        transform(1);
        sum += re[rounds];
        transform(-1);
        for (int i = 0; i < SIZE; i++) {
            re[i] /= SIZE;
            im[i] /= SIZE;
        }
    }
    printf("%.6f\n", sum + re[SIZE / 3]);
}
