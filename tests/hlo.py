"""What compiled programs send."""

import math
import re

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


def largest_collective(hlo: str, kind: str) -> int:
    """Elements of the largest result of a collective of a type ('u8', 'f32', ...) in an optimised program; 0 without any."""
    found = 0
    for line in hlo.splitlines():
        if re.search(rf"= .*\b({COLLECTIVES})(-start)?\(", line):
            shapes = re.findall(rf"\b{kind}\[([\d,]*)\]", line.split(" = ", 1)[1].split("metadata")[0])
            found = max([found, *(math.prod(map(int, filter(None, s.split(",")))) for s in shapes)])
    return found
