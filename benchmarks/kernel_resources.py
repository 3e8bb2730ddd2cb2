"""Compile the Triton kernels for a GPU that need not be there, and print what they would occupy.

    python benchmarks/kernel_resources.py              sm_90 (H100, H200)
    python benchmarks/kernel_resources.py --capability 80

For each kernel: registers per thread, spilled registers, shared memory, the warps that a multiprocessor could hold
(65,536 registers, 64 warps), how the logits (or the head's operands) are loaded and multiplied. These are facts about
the compiled code, not times.
Needs torch, triton and the core's source folder on the path, and no device.
"""

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from corollary.kernels import _triton as kernels
from corollary.kernels import _triton_head as head

REGISTERS, MOST_WARPS, SHARED = 65536, 64, 227 << 10
STATISTICS: dict[str, set[str]] = {
    "log_prob": set(),
    "log_prob, entropy": {"MEAN"},
    "log_prob, entropy, sum_p2, sum_p2_log_p": {"MEAN", "SECOND", "SECOND_LOG"},
    "all five": {"MEAN", "SECOND", "SECOND_LOG", "SPREAD"},
}
TERMS = {
    "log_prob": {"TARGET"},
    "log_prob, entropy": {"TARGET", "A1"},
    "log_prob, entropy, sum_p2, sum_p2_log_p": {"TARGET", "A1", "B0", "B1"},
    "all five": {"TARGET", "A1", "A2", "B0", "B1"},
}
INTEGERS = {"offsets": "*i64", "gradient_offsets": "*i64", "targets": "*i64", "places": "*i64"}
SCALARS = dict.fromkeys(("scale_stride", "vocabulary", "span", "count", "width", "hidden_row", "weight_row"), "i32")
OPERANDS = {"logits", "gradient", "hidden", "weight", "bias"}
DIVISIBLE = {"vocabulary", "span", "width", "hidden_row", "weight_row"}


def compiled(
    kernel: Any, flags: dict[str, Any], logits: str, capability: int, warps: int, registers: int | None = None
) -> Any:
    """Compile one kernel with all pointers 16-byte aligned and sizes and strides that 16 divides."""
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in flags:
            signature[name], constants[name] = "constexpr", flags[name]
            continue
        wide = "*bf16" if name in OPERANDS and logits == "bf16" else "*fp32"
        signature[name] = SCALARS.get(name) or INTEGERS.get(name) or wide
        if signature[name].startswith("*") or name in DIVISIBLE:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options: dict[str, Any] = {"num_warps": warps}
    if registers is not None:
        options["maxnreg"] = registers
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(binary: Any) -> tuple[int, int]:
    """Registers per thread and bytes spilled, as the assembler reports them."""
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(binary.asm["ptx"])
        target = re.search(r"\.target (sm_\w+)", binary.asm["ptx"])
        assert target is not None
        command = [str(ptxas), "-v", f"-arch={target[1]}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used, spilled = re.search(r"Used (\d+) registers", report), re.search(r"(\d+) bytes spill stores", report)
    assert used is not None
    assert spilled is not None
    return int(used[1]), int(spilled[1])


def fused_head(logits: str, wanted: set[str], tile: head.HeadTile, capability: int) -> tuple[Any, int]:
    """Compile the fused forward of the head for contiguous operands without bias, cap and mask; and its warps."""
    flags: dict[str, Any] = {name: name in wanted for name in ("MEAN", "SECOND", "SECOND_LOG", "SPREAD")}
    flags |= {"BIAS": False, "CAP": False, "PLACES": False, "EVEN": True, "WIDEN": False, "FLAT": tile.flat}
    flags |= {"ROWS": tile.rows, "COLUMNS": tile.columns, "WIDTH": tile.width, "STAGES": tile.stages}
    flags |= {"DTYPE": tl.float32, "PRECISION": "ieee", "FIELDS": head.FIELDS}
    flags |= {"hidden_column": 1, "weight_column": 1}
    return compiled(head._head_kernel, flags, logits, capability, tile.warps, tile.registers), tile.warps


def rows_of(capability: int, block: int, warps: int) -> list[tuple[str, ...]]:
    """One line for each kernel, dtype and choice of statistics."""
    common = {"DTYPE": tl.float32, "BLOCK": block, "ALIGN": 16, "STAGES": kernels.STAGES}
    found: list[tuple[str, str, str, Any, int]] = []
    for logits in ("bf16", "fp32"):
        for label, wanted in STATISTICS.items():
            flags = {name: name in wanted for name in ("MEAN", "SECOND", "SECOND_LOG", "SPREAD")}
            binary = compiled(kernels._forward_kernel, {**common, **flags, "PARTS": False}, logits, capability, warps)
            found.append(("forward", logits, label, binary, warps))
        for label, wanted in TERMS.items():
            flags = {name: name in wanted for name in ("A1", "A2", "B0", "B1", "TARGET")}
            binary = compiled(kernels._backward_kernel, {**common, **flags}, logits, capability, warps)
            found.append(("backward", logits, label, binary, warps))
    for logits, itemsize, wanted in (("bf16", 2, STATISTICS), ("fp32", 4, {"all five": STATISTICS["all five"]})):
        for label, chosen in wanted.items():
            found.append(
                ("fused head", logits, label, *fused_head(logits, chosen, head.TILES[itemsize][0], capability))
            )
    lines = []
    for kernel, logits, label, binary, warps in found:
        registers, spilled = resources(binary)
        granted = -(-registers // 8) * 8
        shared = binary.metadata.shared
        blocks = min(MOST_WARPS // warps, REGISTERS // (granted * 32 * warps), SHARED // max(1, shared + 1024))
        ptx = binary.asm["ptx"]
        copies = "cp.async 16 bytes" if re.search(r"cp\.async\.\w+\.shared\.global[^;]*0x10", ptx) else ""
        direct = "128-bit" if re.search(r"ld\.global[\w.:]*\.v4\.b32", ptx) else ""
        products = "wgmma" if "wgmma.mma_async" in ptx else ""
        numbers = (registers, spilled, shared, blocks * warps)
        told = ", ".join(filter(None, (copies, direct, products)))
        lines.append((kernel, logits, label, *(str(n) for n in numbers), told))
    return lines


def main() -> None:
    """Parse the options and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="compute capability, 90 for Hopper")
    parser.add_argument("--block", type=int, default=kernels.MAX_BLOCK, help="columns per tile")
    parser.add_argument("--warps", type=int, default=8, help="warps per program of the row kernels")
    options = parser.parse_args()
    print("| kernel | logits | statistics | registers | spilled bytes | shared bytes | warps per SM | loads |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    for line in rows_of(options.capability, options.block, options.warps):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
