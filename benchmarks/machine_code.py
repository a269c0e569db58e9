"""What nvcc made of the kernels, counted in the machine code of the built library: nothing runs, no GPU is needed.

One row a kernel and architecture: registers a thread, bytes of stack (where spills go) and shared memory, the size of
the code. Of the segmented mean's loops over tokens, by who runs them, also the instructions that a token costs a thread
where all rows are full, and how many loads a response begins with before an instruction needs one of them.

    make machine-code [ARGS=path/to/_C_cuda.abi3.so]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTRUCTION_BYTES = 16
# C++'s mangled type: its name and bytes.
DTYPES = {"f": ("fp32", 4), "d": ("fp64", 8), "6__half": ("fp16", 2), "13__nv_bfloat16": ("bf16", 2)}
RUNNERS = ("team", "warp", "block")


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # "@P0", "@!P1" or ""
    name: str  # "LDG.E.64"
    operands: str

    @property
    def is_load(self) -> bool:
        return self.name.startswith("LDG")

    @property
    def target(self) -> int | None:
        """Where a branch leads."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands) if self.name.startswith("BRA") else None
        return int(found[1], 16) if found else None

    @property
    def goes_on(self) -> bool:
        """Whether the next instruction may follow."""
        conditional = self.guard or "," in self.operands  # a branch may have its predicate among the operands
        return bool(conditional) or not self.name.startswith(("BRA", "BRX", "JMP", "RET", "EXIT"))

    @property
    def registers(self) -> set[int]:
        return {int(number) for number in re.findall(r"\bR(\d+)", self.operands)}

    @property
    def loaded(self) -> set[int]:
        """The registers that a load fills."""
        first = int(re.match(r"R(\d+)", self.operands)[1])
        return set(range(first, first + (2 if ".64" in self.name else 1)))


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other, and the addresses of the blocks that may follow."""

    instructions: list[Instruction]
    successors: list[int]

    @cached_property
    def loads(self) -> int:
        return sum(i.is_load for i in self.instructions)

    @cached_property
    def additions(self) -> int:
        return sum(i.name == "DADD" for i in self.instructions)

    @cached_property
    def shuffles(self) -> bool:
        return any(i.name.startswith("SHFL") for i in self.instructions)

    @cached_property
    def is_full_row(self) -> bool:
        """Whether it can belong to a pass over full rows: no load is checked, no thread asks another."""
        calls = any(i.name.startswith(("BAR", "CALL")) for i in self.instructions)
        return not (calls or self.shuffles or any(i.is_load and i.guard for i in self.instructions))


@dataclass(frozen=True)
class Loop:
    """A loop over tokens: its pass where all rows are full and more follow."""

    tokens: int  # of a thread
    loads: int  # values, and mask bytes where there is a mask
    instructions: int
    loads_at_first: int  # issued when a response begins, before an instruction needs one of them

    @property
    def instructions_a_token(self) -> float:
        return self.instructions / self.tokens


@dataclass(frozen=True)
class Kernel:
    name: str  # segment_mean or group_advantages
    dtype: str  # of a segmented mean, else ""
    special: bool  # masked, or with a preference
    architecture: int  # 90 is sm_90
    registers: int
    stack: int
    shared: int
    code: int  # bytes
    loops: dict[str, Loop]  # of a segmented mean, by who runs them

    def __str__(self) -> str:
        kind = {"segment_mean": "masked", "group_advantages": "preference"}[self.name] if self.special else ""
        return " ".join(filter(None, [self.name, self.dtype, kind, f"sm_{self.architecture}"]))


def parse(sass: str) -> list[Instruction]:
    """A function's instructions, from what cuobjdump prints of it."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\d )?\s*([A-Z][\w.]*)\s*(.*?)\s*;", sass, re.MULTILINE)
    return [Instruction(int(address, 16), guard.strip(), name, operands) for address, guard, name, operands in lines]


def control_flow(instructions: list[Instruction]) -> dict[int, Block]:
    """Blocks by their first address."""
    leaders = {i.target for i in instructions}
    runs: list[list[Instruction]] = [[]]
    for i in instructions:
        if i.address in leaders and runs[-1]:
            runs.append([])
        runs[-1].append(i)
        if i.target is not None or not i.goes_on:
            runs.append([])
    runs = [run for run in runs if run]
    firsts = {run[0].address for run in runs}
    blocks = {}
    for run in runs:
        last = run[-1]
        following = [last.target, last.address + INSTRUCTION_BYTES if last.goes_on else None]
        blocks[run[0].address] = Block(run, [address for address in following if address in firsts])
    return blocks


Edges = dict[int, list[int]]


def reachable(start: int, edges: Edges, without: Iterable[int] = ()) -> dict[int, list[int]]:
    """The blocks that are reached from one by at least one edge, and a short way to each, which ends with it."""
    found: dict[int, list[int]] = {}
    ahead = [[address] for address in edges[start]]
    for way in ahead:
        if way[-1] not in found and way[-1] not in without:
            found[way[-1]] = way
            ahead += [[*way, address] for address in edges[way[-1]]]
    return found


def cycles(head: int, edges: Edges) -> Iterator[list[int]]:
    """The ways from a block back to it that pass no block twice."""
    ways = [[head]]
    while ways:
        way = ways.pop()
        for address in edges[way[-1]]:
            if address == head:
                yield way
            elif address not in way:
                ways.append([*way, address])


def loads_before_use(instructions: Iterable[Instruction]) -> int:
    """How many loads are issued before an instruction names a register that one of them fills."""
    loaded: set[int] = set()
    count = 0
    for i in instructions:
        if i.registers & loaded:
            break
        if i.is_load:
            loaded |= i.loaded
            count += 1
    return count


def row_distance(instructions: Iterable[Instruction]) -> int:
    """Bytes between neighbouring rows of values; a mask's are bytes of their own."""
    values = [i.operands for i in instructions if i.is_load and not i.name.endswith("U8")]
    offsets = sorted(int(found[1], 16) if (found := re.search(r"\+(-?0x[0-9a-f]+)\]", v)) else 0 for v in values)
    return min((after - before for before, after in zip(offsets, offsets[1:], strict=False)), default=0)


def find_loops(blocks: dict[int, Block], element: int) -> dict[str, Loop]:
    """The loops over tokens of a segmented mean, by who runs them.

    They are the cycles through blocks with loads and additions, none of whose loads is checked. `element`: bytes of a
    value. Rows of a team of 8 are 8 elements long, those of a warp 32. A warp that reduces a response alone adds up
    chunks by shuffles within the loop; with its block it reduces one chunk after the other.
    """
    full = [address for address, block in blocks.items() if block.is_full_row]
    before: Edges = {b: [a for a in blocks if b in blocks[a].successors] for b in blocks}
    ahead: Edges = {a: [b for b in blocks[a].successors if blocks[b].is_full_row] for a in full}
    behind: Edges = {b: [a for a in before[b] if blocks[a].is_full_row] for b in full}

    def joined(way: Iterable[int]) -> Block:
        return Block([i for address in way for i in blocks[address].instructions], [])

    loops: dict[str, Loop] = {}
    seen: set[int] = set()
    for head in sorted(full):
        region = reachable(head, ahead).keys() & reachable(head, behind).keys()
        found = joined(region)
        if head not in region or head in seen or not found.loads or not found.additions:
            continue
        seen |= region
        ways = cycles(head, {a: [b for b in ahead[a] if b in region] for a in region})
        # Both batches are loaded and added. A checked batch's last load can stand behind a branch and look like ours.
        way = max(ways, key=lambda way: (joined(way).loads, joined(way).additions, -len(joined(way).instructions)))
        passed = joined(way)
        # The first batch is loaded ahead of the loop: in the last block with loads on a way to it.
        edges = {b: [a for a in behind[b] if a not in region and (b == head or not blocks[b].loads)] for b in full}
        first = max(
            (joined(way[::-1]) for way in reachable(head, edges).values()), key=lambda b: b.loads, default=Block([], [])
        )
        spans = joined(reachable(way[-1], before, without=[head])).shuffles
        who = "team" if row_distance(passed.instructions) < 32 * element else "warp" if spans else "block"
        at_first = loads_before_use(first.instructions + passed.instructions)
        loops[who] = Loop(passed.additions, passed.loads, len(passed.instructions), at_first)
    return loops


def tool_folder() -> str | None:
    """Where cuobjdump and nvdisasm are: NVIDIA's packages in this environment, or a CUDA toolkit."""
    folders = [sysconfig.get_path("purelib") + "/nvidia/cu13/bin"]
    folders += [os.environ[name] + "/bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    folders += [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/cuda/bin"]
    return next((f for f in folders if all(shutil.which(tool, path=f) for tool in ("cuobjdump", "nvdisasm"))), None)


def cuobjdump(option: str, library: Path) -> dict[tuple[int, str], str]:
    """What it says of each function of the library, by architecture and mangled name.

    Raises:
        FileNotFoundError: there is no such library, or no cuobjdump and nvdisasm.
        subprocess.CalledProcessError: cuobjdump failed.
    """
    if not library.exists():
        raise FileNotFoundError(f"{library} is not there: build it with `pip install -e .` where nvcc is")
    folder = tool_folder()
    if folder is None:
        raise FileNotFoundError(
            "cuobjdump and nvdisasm are not here: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    environment = os.environ | {"PATH": folder + os.pathsep + os.environ.get("PATH", "")}
    command = [f"{folder}/cuobjdump", option, str(library)]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = {}
    for part in re.split(r"^arch = sm_", text, flags=re.MULTILINE)[1:]:
        architecture = int(re.match(r"\d+", part)[0])
        for function in re.split(r"^\s*Function\s*:?\s+(?=_Z)", part, flags=re.MULTILINE)[1:]:
            found[architecture, re.match(r"\w+", function)[0]] = function
    return found


def read_kernel(architecture: int, mangled: str, sass: str, usage: str) -> Kernel:
    name, dtype, special = re.match(r"_ZN4lens\d+(\w+?)_kernelI(\w*)Lb([01])EEE", mangled).groups()
    resources = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}
    instructions = parse(sass)
    dtype_name, element = DTYPES[dtype] if dtype else ("", 0)
    return Kernel(
        name=name,
        dtype=dtype_name,
        special=special == "1",
        architecture=architecture,
        registers=resources["REG"],
        stack=resources["STACK"] + resources["LOCAL"],
        shared=resources["SHARED"],
        code=len(instructions) * INSTRUCTION_BYTES,
        loops=find_loops(control_flow(instructions), element) if dtype else {},
    )


def read_kernels(library: Path) -> list[Kernel]:
    """Every kernel in a library, for every architecture that has machine code in it; raises as cuobjdump does."""
    usage = cuobjdump("--dump-resource-usage", library)
    kernels = [read_kernel(*key, sass, usage[key]) for key, sass in cuobjdump("--dump-sass", library).items()]
    return sorted(kernels, key=lambda kernel: (kernel.name, kernel.dtype, kernel.special, kernel.architecture))


def built_library() -> Path:
    """The one of this checkout; not there if it is not built."""
    return next((ROOT / "lens_openrlhf").glob("_C_cuda*.so"), ROOT / "lens_openrlhf" / "_C_cuda.abi3.so")


def row(kernel: Kernel) -> str:
    costs = [f"{kernel.loops[who].instructions_a_token:.1f}" if who in kernel.loops else "-" for who in RUNNERS]
    first = str(kernel.loops["warp"].loads_at_first) if "warp" in kernel.loops else "-"
    sizes = f"{kernel!s:36}{kernel.registers:10}{kernel.stack:8}{kernel.shared:8}{kernel.code / 1024:8.1f}"
    return sizes + f"{costs[0]:>8}{costs[1]:>6}{costs[2]:>7}{first:>12}"


def main() -> None:
    parser = argparse.ArgumentParser(description="registers, spills, code and instructions a token of the kernels")
    parser.add_argument("library", nargs="?", type=Path, default=built_library())
    try:
        kernels = read_kernels(parser.parse_args().library)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: cuobjdump failed: {error.stderr.strip()}")
    print(f"{'':62}{'code':>8}{'instructions a token':>21}{'loads':>12}")
    titles = f"{'kernel':36}{'registers':>10}{'stack':>8}{'shared':>8}{'KiB':>8}"
    print(f"{titles}{'team':>8}{'warp':>6}{'block':>7}{'before use':>12}")
    print("\n".join(map(row, kernels)))


if __name__ == "__main__":
    main()
