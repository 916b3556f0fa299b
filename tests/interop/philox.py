"""The mask contract once more, in numpy: Philox4x32-10 (Salmon et al. 2011), mask cells, and the order of an epoch."""
import numpy as np

DOMAIN_TRAIN, DOMAIN_EVAL, DOMAIN_SAMPLING = 0, 1, 3
POSITION_LORA_INPUT, POSITION_LORA_A, POSITION_LORA_B = 0, 8, 16
POSITION_ATTN_LOGIT, POSITION_ATTN_WEIGHT, POSITION_SHUFFLE = 24, 25, 30
POSITION_FFN_MIDDLE, POSITION_FFN_OUTPUT, POSITION_EMBEDDING, POSITION_HIDDEN = 26, 27, 28, 29
WORD = np.uint64(0xFFFFFFFF)


def philox(seed, c0, c1, c2, c3):
    """Four words for each counter; counters are integers or arrays that broadcast."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in (c0, c1, c2, c3)))
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0)
        c1 = p1 & WORD
        c2 = (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1)
        c3 = p0 & WORD
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def site(domain, layer, position, head=0, instance=0):
    return domain << 30 | layer << 20 | position << 14 | instance << 8 | head


def threshold(p):
    """Of 65536 draws, how many drop a cell."""
    return int(p * 65536 + 0.5)


def cells(seed, where, draw, rows, columns, p):
    """Keep bits [len(rows)][len(columns)] of the mask of a site."""
    row, col = np.asarray(rows)[:, None], np.asarray(columns)[None, :]
    words = philox(seed, col // 128 * 16 + col % 16, row, where, draw)
    half = col % 128 // 16
    word = np.take_along_axis(words, np.broadcast_to(half // 2, words.shape[1:])[None], axis=0)[0]
    return (word >> (16 * (half % 2)).astype(np.uint64) & np.uint64(0xFFFF)) >= threshold(p)


def keep(seed, layer, module, draw, rows, columns, p):
    """Of the input of an adapter; module: its place among the seven."""
    return cells(seed, site(DOMAIN_TRAIN, layer, POSITION_LORA_INPUT + module), draw, rows, columns, p)


def span(seed, where, draw, length, p):
    """Keep bits [length]: one run of floor(p length), at least one, is dropped."""
    count = max(1, int(p * length))
    word = int(philox(seed, 0xFFFFFFFF, 0, where, draw)[0])
    start = word * (length - count + 1) >> 32
    keep = np.ones(length, dtype=bool)
    keep[start:start + count] = False
    return keep


def epoch_order(seed, epoch, count):
    """The permutation in which an epoch visits the examples (Fisher and Yates, from the end)."""
    where = site(DOMAIN_SAMPLING, 0, POSITION_SHUFFLE)
    words = philox(seed, np.arange((count + 3) // 4), 0, where, epoch).T.reshape(-1)
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = int(words[i]) * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return order
