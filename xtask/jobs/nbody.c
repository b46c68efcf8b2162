// Five bodies that attract each other, moved in small steps; the argument is the number of thousands of steps.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BODIES = 5 };
static double place[BODIES][3], speed[BODIES][3];
static const double mass[BODIES] = {40.0, 0.04, 0.01, 0.002, 0.002};

static void step(double time) {
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++) {
            double away[3], square = 0;
            for (int axis = 0; axis < 3; axis++) {
                away[axis] = place[i][axis] - place[j][axis];
                square += away[axis] * away[axis];
            }
            double pull = time / (square * sqrt(square));
            for (int axis = 0; axis < 3; axis++) {
                speed[i][axis] -= away[axis] * mass[j] * pull;
                speed[j][axis] += away[axis] * mass[i] * pull;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int axis = 0; axis < 3; axis++)
            place[i][axis] += time * speed[i][axis];
}

static double energy(void) {
    double sum = 0;
    for (int i = 0; i < BODIES; i++) {
        for (int axis = 0; axis < 3; axis++)
            sum += 0.5 * mass[i] * speed[i][axis] * speed[i][axis];
        for (int j = i + 1; j < BODIES; j++) {
            double square = 0;
            for (int axis = 0; axis < 3; axis++)
                square += pow(place[i][axis] - place[j][axis], 2);
            sum -= mass[i] * mass[j] / sqrt(square);
        }
    }
    return sum;
}

int main(int argc, char **argv) {
    for (int i = 1; i < BODIES; i++) {
        double radius = 5.0 * i;
        place[i][i % 3] = radius;
        place[i][(i + 1) % 3] = 0.1 * i;
        speed[i][(i + 1) % 3] = sqrt(mass[0] / radius);
    }
    for (long steps = (argc > 1 ? atol(argv[1]) : 100) * 1000; steps > 0; steps--)
        step(0.001);
    printf("%.9f\n", energy());
}
