#!/usr/bin/env python3
"""Prints the demo's results side by side.     table.py OUTPUT METHOD ..."""

import json
import os
import sys

HEADER = ("method", "parameters", "tokens/s", "train loss", "held-out loss", "accuracy", "seconds")


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def rows(output, methods):
    base = load(output, "base.json")
    yield ("base model", "-", "-", "-", f"{base['loss']:.4f}", f"{base['metrics']['accuracy']:.4f}", "-")
    for method in methods:
        s = load(output, method, "summary.json")
        yield (
            method,
            f"{s['trainable_parameters']:,}",
            f"{s['tokens_per_second']:,.0f}",
            f"{s['train_loss']:.4f}",
            f"{s['eval']['loss']:.4f}",
            f"{s['eval']['metrics']['accuracy']:.4f}",
            f"{s['seconds']:.1f}",
        )


def main():
    output, methods = sys.argv[1], sys.argv[2:]
    table = [HEADER, *rows(output, methods)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
    print()
    for method in methods:
        folder = os.path.join(output, method)
        print(f"{method}: adapter in {folder}, curves in {os.path.join(folder, 'curves.svg')}")


if __name__ == "__main__":
    main()
