#!/usr/bin/env python3
"""Runs the micro-benchmarks and compares them with the figures that are kept in micro.tsv.

A time that grew is printed, not judged: this never fails because something became slower. Compare only on the machine
that the file names, and with nothing else running; a change below a few percent is noise. Allocations do not depend on
the machine, and a changed number of them is a change of the program.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEPT = HERE / "micro.tsv"
COLUMNS = ["name", "median_ns", "items_per_second", "allocations", "allocated_bytes"]
# Building the package, and running everything in it, both without other work on the machine.
TIMEOUT_S = 3_600
NS = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9}
PER_SECOND = {"item/s": 1, "Kitem/s": 1e3, "Mitem/s": 1e6, "Gitem/s": 1e9, "Titem/s": 1e12}
BYTES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}
LEAF = re.compile(r"^(?P<branches>(?:│  |   )*)(?:├─|╰─) (?P<name>\S+)(?P<rest>.*)$")


def value(text, units):
    number, unit = text.split()
    return float(number) * units[unit]


def figures(output):
    """The figures in what divan printed: a tree of names, each with rows of six columns."""
    found, path, current, row = {}, [], None, ""
    for line in output.splitlines():
        cells = line.split("│")
        if len(cells) < 6:
            continue
        head, median = "│".join(cells[:-5]), cells[-4].strip()
        leaf = LEAF.match(head)
        if leaf:
            path = path[: len(leaf["branches"]) // 3] + [leaf["name"]]
            current = None
            if median:
                current = found.setdefault("/".join(path), dict.fromkeys(COLUMNS[1:], 0.0))
                current["median_ns"] = value(median, NS)
            continue
        if current is None:
            continue
        text = head.strip("│ ")
        if text.endswith("item/s"):
            current["items_per_second"] = value(median, PER_SECOND)
        elif text.endswith(":"):
            row = text
        elif row in ("alloc:", "grow:") and median:
            # Growing a buffer asks the allocator once more, and is counted as one.
            if median.split()[-1] in BYTES:
                current["allocated_bytes"] += value(median, BYTES)
            else:
                current["allocations"] += float(median)
    return found


def run(filters):
    command = ["cargo", "bench", "--locked", "-p", "agora-bench", "--bench", "micro", "--", *filters]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        sys.exit(f"micro.py: cargo bench ended with {process.returncode}")
    return output


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_kib = int(re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M).group(1))
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    return (f"{cpu.group(1) if cpu else 'unknown processor'}, {os.cpu_count()} cores, {round(memory_kib / 2**20)} GiB, "
            f"{rustc.split(' (')[0]}")


def read_kept():
    """The line about the machine, and the figures by name; nothing if there is no file."""
    if not KEPT.exists():
        return None, {}
    lines = KEPT.read_text().splitlines()
    if lines[1].split("\t") != COLUMNS:
        sys.exit(f"micro.py: {KEPT} has other columns; write it again with --write")
    rows = (line.split("\t") for line in lines[2:])
    return lines[0].removeprefix("# "), {name: dict(zip(COLUMNS[1:], map(float, rest))) for name, *rest in rows}


def write_kept(found):
    lines = [f"# {machine()}", "\t".join(COLUMNS)]
    for name in sorted(found, key=place):
        lines.append("\t".join([name, *(f"{found[name][column]:.10g}" for column in COLUMNS[1:])]))
    KEPT.write_text("\n".join(lines) + "\n")


def place(name):
    """Sorts by name, and by number where a name ends in one."""
    base, _, argument = name.rpartition("/")
    return (base, int(argument)) if argument.isdigit() else (name, 0)


def shown_time(ns):
    for unit, above in (("ms", 1e6), ("µs", 1e3)):
        if ns >= above:
            return f"{ns / above:.4g} {unit}"
    return f"{ns:.4g} ns"


def print_table(found, kept):
    heads = ["name", "median", "kept", "change", "per item", "items/s", "allocations", "bytes"]
    lines = []
    for name in sorted(found, key=place):
        now, before = found[name], kept.get(name)
        per_item = 1e9 / now["items_per_second"] if now["items_per_second"] else now["median_ns"]
        allocations = f"{now['allocations']:g}"
        if before and before["allocations"] != now["allocations"]:
            allocations += f" (was {before['allocations']:g})"
        was, change = "–", "new"
        if before:
            was = shown_time(before["median_ns"])
            change = f"{100 * (now['median_ns'] / before['median_ns'] - 1):+.0f} %"
        lines.append([name, shown_time(now["median_ns"]), was, change, shown_time(per_item),
                      f"{now['items_per_second']:,.0f}", allocations, f"{now['allocated_bytes']:,.0f}"])
    widths = [max(len(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    for line in [heads, *lines]:
        cells = [text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="*", help="only benchmarks whose name contains this")
    parser.add_argument("--write", action="store_true", help="keep these figures in micro.tsv")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE",
                        help="read what `cargo bench` printed before, and run nothing")
    args = parser.parse_args()
    found = figures(args.source.read_text() if args.source else run(args.filter))
    if not found:
        sys.exit("micro.py: no figures: no benchmark has such a name, or divan prints another table than this script reads")
    about, kept = read_kept()
    print_table(found, kept)
    gone = sorted(set(kept) - set(found)) if not args.filter else []
    if gone:
        print(f"kept, but not run: {', '.join(gone)}")
    if about and about != machine():
        print(f"kept figures are of another machine or compiler: {about}")
    if args.write:
        write_kept({**kept, **found} if args.filter else found)
        print(f"written: {KEPT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
