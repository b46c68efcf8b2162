// The product of two 300 x 300 matrices of doubles, as often as the argument says.
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 300 };
static double a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];

int main(int argc, char **argv) {
    double sum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            a[i][j] = (i * 7 + j) % 13 / 3.0;
            b[i][j] = (i + j * 5) % 11 / 7.0;
        }
    for (int rounds = argc > 1 ? atoi(argv[1]) : 3; rounds > 0; rounds--) {
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) {
                double cell = 0;
                for (int k = 0; k < SIDE; k++)
                    cell += a[i][k] * b[k][j];
                c[i][j] = cell;
            }
        sum += c[rounds][SIDE - rounds];
        a[rounds][rounds] += 1;
    }
    printf("%.9f\n", sum);
}
