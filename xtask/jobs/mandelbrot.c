// How long points of the complex plane take to leave the circle of radius 2 under z = z * z + c, at most 200
// steps; the argument is the side of the picture in points.
#include <stdio.h>
#include <stdlib.h>

static int steps(double re, double im) {
    double x = 0, y = 0;
    int n = 0;
    for (; n < 200 && x * x + y * y <= 4; n++) {
        double next = x * x - y * y + re;
        y = 2 * x * y + im;
        x = next;
    }
    return n;
}

int main(int argc, char **argv) {
    int side = argc > 1 ? atoi(argv[1]) : 300;
    long sum = 0;
    for (int row = 0; row < side; row++)
        for (int column = 0; column < side; column++)
            sum += steps(3.0 * column / side - 2.25, 2.5 * row / side - 1.25);
    printf("%ld\n", sum);
}
