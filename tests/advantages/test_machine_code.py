"""What docs/kernels.md says of the kernels' machine code, pinned; and the counting itself, on an excerpt."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest

from benchmarks import machine_code
from benchmarks.machine_code import Kernel, Loop

from .test_cuda_library import library_path, needs_nvcc

# Of 65,536 a multiprocessor, for blocks of 256 threads: segment_blocks in segment_mean.cuh are 4, of masked doubles 2.
REGISTERS, REGISTERS_OF_MASKED_DOUBLES = 64, 128
# From sm_90 on each block has so many bytes of shared memory that are the system's.
SHARED, SYSTEM_SHARED = 512, 1024
# By kernel, dtype, and whether it is masked or has a preference: most KiB of code, most instructions a token, and least
# loads before the first is needed. ptxas fills in idle instructions after each fp64 one for sm_120, hence its own.
LIMITS = {
    ("group_advantages", "", False): (32, None, None),
    ("group_advantages", "", True): (48, None, None),
    ("segment_mean", "fp32", False): (44, 7, 16),
    ("segment_mean", "fp32", True): (44, 14, 16),
    ("segment_mean", "bf16", False): (44, 8, 16),
    ("segment_mean", "bf16", True): (44, 15, 16),
    ("segment_mean", "fp16", False): (44, 8, 16),
    ("segment_mean", "fp16", True): (44, 15, 16),
    ("segment_mean", "fp64", False): (44, 17, 8),
    ("segment_mean", "fp64", True): (48, 23, 16),
}
SM_120_MORE_KIB, SM_120_MORE_INSTRUCTIONS = 16, 10.5


@lru_cache(maxsize=1)
def kernels() -> list[Kernel]:
    return machine_code.read_kernels(Path(library_path("_C_cuda")))


@needs_nvcc
def test_no_kernel_spills():
    assert {str(kernel): kernel.stack for kernel in kernels() if kernel.stack} == {}


@needs_nvcc
def test_as_many_blocks_share_a_multiprocessor_as_are_launched():
    for kernel in kernels():
        few = (kernel.dtype, kernel.special) == ("fp64", True)
        assert kernel.registers <= (REGISTERS_OF_MASKED_DOUBLES if few else REGISTERS), str(kernel)
        assert kernel.shared <= SHARED + (SYSTEM_SHARED if kernel.architecture >= 90 else 0), str(kernel)


@needs_nvcc
def test_code_stays_small():
    for kernel in kernels():
        most = LIMITS[kernel.name, kernel.dtype, kernel.special][0]
        assert kernel.code <= 1024 * (most + (SM_120_MORE_KIB if kernel.architecture >= 120 else 0)), kernel


@needs_nvcc
def test_tokens_cost_few_instructions_and_enough_loads_are_in_flight():
    for kernel in kernels():
        _, instructions, loads = LIMITS[kernel.name, kernel.dtype, kernel.special]
        if instructions is None:
            continue
        assert kernel.loops.keys() == {"team", "warp", "block"}, f"{kernel}: full rows have checked loads"
        for who, loop in kernel.loops.items():
            most = instructions + (SM_120_MORE_INSTRUCTIONS if kernel.architecture >= 120 else 0)
            assert loop.instructions_a_token <= most, f"{kernel}, {who}: {loop}"
            assert loop.loads_at_first >= loads, f"{kernel}, {who}: {loop}"
            assert loop.loads == loop.tokens * (2 if kernel.special else 1), f"{kernel}, {who}: {loop}"


# tree_sum for a warp, fp32 without a mask, compiled for sm_90 with batches of one row (kCount 1).
EXCERPT = """
    /*00c0*/ @P0 BRA 0x120 ;
    /*00d0*/ ISETP.GE.AND P0, PT, R0, R7, PT ;
    /*00e0*/ IMAD.MOV.U32 R6, RZ, RZ, RZ ;
    /*00f0*/ @P0 BRA 0x130 ;
    /*0100*/ LDG.E R6, desc[UR4][R2.64] ;
    /*0110*/ BRA 0x130 ;
    /*0120*/ LDG.E R6, desc[UR4][R2.64] ;
    /*0130*/ BSYNC B0 ;
    /*0140*/ LDC R7, c[0x0][0x218] ;
    /*0150*/ IMAD.MOV.U32 R8, RZ, RZ, 0x40 ;
    /*0160*/ CS2R R12, SRZ ;
    /*0170*/ IMAD.MOV.U32 R9, RZ, RZ, RZ ;
    /*0180*/ CS2R R4, SRZ ;
    /*0190*/ IMAD.IADD R17, R7, 0x1, -R8 ;
    /*01a0*/ ISETP.GE.AND P0, PT, R17, -0x1f, PT ;
    /*01b0*/ @!P0 BRA 0x270 ;
    /*01c0*/ ISETP.GT.AND P1, PT, R17, -0x1, PT ;
    /*01d0*/ BSSY B0, 0x270 ;
    /*01e0*/ @P1 BRA 0x250 ;
    /*01f0*/ VIADD R11, R17, 0x20 ;
    /*0200*/ IMAD.MOV.U32 R10, RZ, RZ, RZ ;
    /*0210*/ ISETP.GE.AND P1, PT, R0, R11, PT ;
    /*0220*/ @P1 BRA 0x260 ;
    /*0230*/ LDG.E R10, desc[UR4][R2.64+0x80] ;
    /*0240*/ BRA 0x260 ;
    /*0250*/ LDG.E R10, desc[UR4][R2.64+0x80] ;
    /*0260*/ BSYNC B0 ;
    /*0270*/ FMNMX.NAN R14, RZ, R6, PT ;
    /*0280*/ ISETP.GE.AND P1, PT, R17, 0x1, PT ;
    /*0290*/ FMNMX R9, R6, R9, !PT ;
    /*02a0*/ F2F.F64.F32 R14, R14 ;
    /*02b0*/ DADD R12, R14, R12 ;
    /*02c0*/ @!P1 BRA 0x370 ;
    /*02d0*/ ISETP.GT.AND P2, PT, R17, 0x1f, PT ;
    /*02e0*/ BSSY B0, 0x370 ;
    /*02f0*/ @P2 BRA 0x350 ;
    /*0300*/ ISETP.GE.AND P2, PT, R0, R17, PT ;
    /*0310*/ IMAD.MOV.U32 R6, RZ, RZ, RZ ;
    /*0320*/ @P2 BRA 0x360 ;
    /*0330*/ LDG.E R6, desc[UR4][R2.64+0x100] ;
    /*0340*/ BRA 0x360 ;
    /*0350*/ LDG.E R6, desc[UR4][R2.64+0x100] ;
    /*0360*/ BSYNC B0 ;
    /*0370*/ @P0 FMNMX.NAN R14, RZ, R10.reuse, PT ;
    /*0380*/ ISETP.GT.AND P3, PT, R17, RZ, PT ;
    /*0390*/ LOP3.LUT P2, RZ, R8, 0x3c0, RZ, 0xc0, !PT ;
    /*03a0*/ @P0 F2F.F64.F32 R14, R14 ;
    /*03b0*/ @P0 FMNMX R9, R9, R10, !PT ;
    /*03c0*/ @P0 DADD R12, R12, R14 ;
    /*03d0*/ @P2 BRA P3, 0x5a0 ;
    /*03e0*/ SHFL.DOWN PT, R15, R13, 0x10, 0x1f ;
    /*03f0*/ ISETP.GE.AND P0, PT, R7, 0x401, PT ;
    /*0400*/ SHFL.DOWN PT, R14, R12, 0x10, 0x1f ;
    /*0410*/ DADD R14, R12, R14 ;
    /*0420*/ SHFL.DOWN PT, R17, R15, 0x8, 0x1f ;
    /*0430*/ SHFL.DOWN PT, R16, R14, 0x8, 0x1f ;
    /*0440*/ DADD R16, R14, R16 ;
    /*0450*/ SHFL.DOWN PT, R19, R17, 0x4, 0x1f ;
    /*0460*/ SHFL.DOWN PT, R18, R16, 0x4, 0x1f ;
    /*0470*/ DADD R18, R16, R18 ;
    /*0480*/ SHFL.DOWN PT, R21, R19, 0x2, 0x1f ;
    /*0490*/ SHFL.DOWN PT, R20, R18, 0x2, 0x1f ;
    /*04a0*/ DADD R20, R18, R20 ;
    /*04b0*/ SHFL.DOWN PT, R13, R21, 0x1, 0x1f ;
    /*04c0*/ SHFL.DOWN PT, R12, R20, 0x1, 0x1f ;
    /*04d0*/ DADD R22, R20, R12 ;
    /*04e0*/ SHFL.IDX PT, R13, R23, RZ, 0x1f ;
    /*04f0*/ SHFL.IDX PT, R12, R22, RZ, 0x1f ;
    /*0500*/ @!P0 BRA 0x6f0 ;
    /*0510*/ VIADD R11, R8, 0xffffffff ;
    /*0520*/ SHF.R.S32.HI R14, RZ, 0x1f, R11 ;
    /*0530*/ LEA.HI R14, R14, R11, RZ, 0xa ;
    /*0540*/ SHF.R.S32.HI R11, RZ, 0xa, R14 ;
    /*0550*/ ISETP.NE.AND P0, PT, R0, R11, PT ;
    /*0560*/ FSEL R4, R12, R4, !P0 ;
    /*0570*/ FSEL R5, R13, R5, !P0 ;
    /*0580*/ @!P1 BRA 0x5e0 ;
    /*0590*/ CS2R R12, SRZ ;
    /*05a0*/ IADD3 R2, P0, R2, 0x100, RZ ;
    /*05b0*/ VIADD R8, R8, 0x40 ;
    /*05c0*/ IMAD.X R3, RZ, RZ, R3, P0 ;
    /*05d0*/ BRA 0x190 ;
"""
# By hand: of a pass the instructions at 190-1e0, 250-2f0, 350-3d0 and 5a0-5d0.
WARP = Loop(tokens=2, loads=2, instructions=6 + 11 + 9 + 4, loads_at_first=2)


def loops(sass: str) -> dict[str, Loop]:
    return machine_code.find_loops(machine_code.control_flow(machine_code.parse(sass)), element=4)


def test_a_pass_over_full_rows_is_found_among_the_others():
    assert len(machine_code.parse(EXCERPT)) == (0x5D0 - 0xC0) // 16 + 1
    assert loops(EXCERPT) == {"warp": WARP}


def test_a_loop_without_shuffles_within_is_a_blocks():
    """Where the chunk's sum does not lead back into the loop."""
    assert loops(EXCERPT.replace("/*0590*/ CS2R R12, SRZ", "/*0590*/ EXIT")) == {"block": WARP}


def test_a_checked_load_is_no_full_row():
    assert loops(re.sub(r"\*/ LDG", "*/ @P1 LDG", EXCERPT)) == {}
    half = re.sub(r"(02[35]0)\*/ LDG", r"\1*/ @P1 LDG", EXCERPT)
    assert [loop.loads for loop in loops(half).values()] == [1]


def test_an_early_use_is_seen():
    """Where the loop's first instruction needs what was loaded ahead of it."""
    early = EXCERPT.replace("/*0190*/ IMAD.IADD R17, R7, 0x1, -R8", "/*0190*/ IMAD.IADD R17, R6, 0x1, -R8")
    assert loops(early)["warp"].loads_at_first == 1


def test_teams_have_short_rows():
    assert loops(EXCERPT.replace("+0x100]", "+0xa0]")).keys() == {"team"}


def test_registers_of_wide_loads_count_both():
    load, use = "/*0000*/ LDG.E.64 R4, desc[UR4][R2.64] ;", "/*0010*/ DADD R8, R8, R{} ;"
    counts = [
        machine_code.loads_before_use(machine_code.parse(f" {load}\n {use.format(n)}\n {load}\n")) for n in (5, 6)
    ]
    assert counts == [1, 1]


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        machine_code.read_kernels(tmp_path / "none.so")
    monkeypatch.setattr(machine_code, "tool_folder", lambda: None)
    with pytest.raises(FileNotFoundError, match="pip install nvidia-cuda-cuobjdump"):
        machine_code.read_kernels(Path(__file__))
