// What small processors spend their time on, in equal turns: sorting and searching a linked list, a product of
// integer matrices, a state machine that reads numbers, and a checksum over all results. The argument is the
// number of rounds.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODES = 256, SIDE = 24, TEXT = 2048 };

struct node {
    struct node *next;
    int16_t key, rank;
};

static struct node nodes[NODES];
static int16_t left[SIDE][SIDE], right[SIDE][SIDE];
static int32_t product[SIDE][SIDE];
static char text[TEXT];
static uint32_t seed = 1;

static uint32_t noise(void) {
    return seed = seed * 1664525 + 1013904223;
}

static uint32_t checksum(uint32_t crc, uint32_t value) {
    for (int bit = 0; bit < 32; bit++, value >>= 1)
        crc = (crc >> 1) ^ (((crc ^ value) & 1) ? 0xedb88320u : 0);
    return crc;
}

static struct node *merge(struct node *a, struct node *b, int by_rank) {
    struct node head, *last = &head;
    while (a && b) {
        int first = by_rank ? a->rank <= b->rank : a->key <= b->key;
        struct node **from = first ? &a : &b;
        last = last->next = *from;
        *from = (*from)->next;
    }
    last->next = a ? a : b;
    return head.next;
}

static struct node *sort(struct node *list, int by_rank) {
    if (!list || !list->next)
        return list;
    struct node *slow = list, *fast = list->next;
    while (fast && fast->next) {
        slow = slow->next;
        fast = fast->next->next;
    }
    struct node *half = slow->next;
    slow->next = NULL;
    return merge(sort(list, by_rank), sort(half, by_rank), by_rank);
}

static uint32_t lists(void) {
    struct node *list = NULL;
    for (int i = 0; i < NODES; i++) {
        nodes[i] = (struct node){list, (int16_t)(noise() >> 16), (int16_t)i};
        list = &nodes[i];
    }
    list = sort(list, 0);
    uint32_t sum = 0;
    for (int wanted = 0; wanted < 16; wanted++) {
        int steps = 0;
        for (struct node *at = list; at && at->rank != wanted * 16; at = at->next)
            steps++;
        sum = sum * 31 + (uint32_t)steps;
    }
    for (struct node *at = sort(list, 1); at; at = at->next)
        sum = sum * 31 + (uint16_t)at->key;
    return sum;
}

static uint32_t matrices(void) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            left[i][j] = (int16_t)(noise() >> 20);
            right[i][j] = (int16_t)(noise() >> 20);
        }
    uint32_t sum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            int32_t cell = 0;
            for (int k = 0; k < SIDE; k++)
                cell += left[i][k] * right[k][j];
            product[i][j] = cell;
            sum += (uint32_t)((cell >> 2) & 15) * (uint32_t)((cell >> 5) & 127);
        }
    return sum + (uint32_t)product[SIDE / 2][SIDE / 3];
}

enum state { START, SIGN, WHOLE, POINT, FRACTION, EXPONENT, POWER, WRONG, STATES };

static enum state step(enum state state, char c) {
    int digit = c >= '0' && c <= '9', sign = c == '+' || c == '-';
    switch (state) {
    case START: return digit ? WHOLE : sign ? SIGN : c == '.' ? POINT : WRONG;
    case SIGN: return digit ? WHOLE : c == '.' ? POINT : WRONG;
    case WHOLE: return digit ? WHOLE : c == '.' ? FRACTION : c == 'e' ? EXPONENT : WRONG;
    case POINT: return digit ? FRACTION : WRONG;
    case FRACTION: return digit ? FRACTION : c == 'e' ? EXPONENT : WRONG;
    case EXPONENT: return digit || sign ? POWER : WRONG;
    case POWER: return digit ? POWER : WRONG;
    default: return WRONG;
    }
}

static uint32_t states(void) {
    static const char letters[] = "0123456789012345678901234567890123456789+-..e,,,,,,,,x";
    uint32_t ends[STATES] = {0};
    for (int i = 0; i < TEXT; i++)
        text[i] = letters[(noise() >> 16) % (sizeof letters - 1)];
    enum state state = START;
    for (int i = 0; i < TEXT; i++) {
        if (text[i] == ',') {
            ends[state]++;
            state = START;
        } else {
            state = step(state, text[i]);
        }
    }
    uint32_t sum = 0;
    for (int i = 0; i < STATES; i++)
        sum = sum * 31 + ends[i];
    return sum;
}

int main(int argc, char **argv) {
    uint32_t crc = ~0u;
    for (int rounds = argc > 1 ? atoi(argv[1]) : 1000; rounds > 0; rounds--) {
        crc = checksum(crc, lists());
        crc = checksum(crc, matrices());
        crc = checksum(crc, states());
    }
    printf("%08x\n", ~crc);
}
