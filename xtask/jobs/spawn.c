// Forks, and runs /bin/true in the child; the argument is how often.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int done = 0;
    for (int left = argc > 1 ? atoi(argv[1]) : 200; left > 0; left--) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        int status = -1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return 1;
        done++;
    }
    printf("%d\n", done);
}
