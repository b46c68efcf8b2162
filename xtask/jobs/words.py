"""Calls of functions (the argument is the number of Fibonacci), and a loop over a dictionary."""

import sys


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


size = int(sys.argv[1])
counts = {}
for number in range(size * 4000):
    word = f"word {number * 7919 % 5003}"
    counts[word] = counts.get(word, 0) + number
print(fib(size), len(counts), sum(counts.values()))
