"""What compiled programs send."""

import re

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


def shapes_sent(hlo: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, shape) of each array that a collective of an optimised program takes or gives."""
    found = []
    for line in hlo.splitlines():
        if re.search(rf"= .*\b({COLLECTIVES})(-start)?\(", line):
            arrays = re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", line.split("metadata")[0])
            found += [(kind, tuple(map(int, filter(None, shape.split(","))))) for kind, shape in arrays]
    return found
