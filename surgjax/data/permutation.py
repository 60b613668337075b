"""Random orders that are computed, never listed: hashes of integers, permutations keyed by them."""

import math

import numpy as np

ROUNDS = 8


def permute(positions: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Images of `positions` under pseudo-random permutations of range(size), int64 (n,).

    A Feistel network over the mixed radix (left, right) with left < ceil(sqrt(size)), whose few
    values beyond `size` walk on along their cycle (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains").

    Args:
      key: which permutation, uint64: (1,) for all positions or (n,) for each its own.
    """
    if size < 1:
        raise ValueError("a permutation of nothing")
    left = math.isqrt(size - 1) + 1
    radix = np.uint64(left), np.uint64(-(-size // left))
    values = np.asarray(positions).astype(np.uint64)
    keys = _mix(np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None] + key)
    keys = np.broadcast_to(keys, (ROUNDS, len(values)))
    out = np.empty(len(values), np.int64)
    todo = np.arange(len(values))
    while len(todo):
        values = _feistel(values, *radix, keys)
        inside = values < size
        out[todo[inside]] = values[inside]
        if inside.all():
            break
        todo, values, keys = todo[~inside], values[~inside], keys[:, ~inside]
    return out


def hash_words(*words: int | np.integer | np.ndarray) -> np.ndarray:
    """Hashes of tuples of integers, uint64 (n,); words are integers or arrays (n,)."""
    state = np.zeros(1, np.uint64)
    for word in words:
        if not isinstance(word, np.ndarray):
            word = np.array([int(word) & 0xFFFFFFFFFFFFFFFF], np.uint64)
        state = _mix(state ^ _mix(word.astype(np.uint64)))
    return state


def _feistel(x: np.ndarray, left: np.uint64, right: np.uint64, keys: np.ndarray) -> np.ndarray:
    a, b = np.divmod(x, right)
    for nth, key in enumerate(keys):
        if nth % 2:
            b = (b + _mix(a + key) % right) % right
        else:
            a = (a + _mix(b + key) % left) % left
    return a * right + b


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), uint64 arrays."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
