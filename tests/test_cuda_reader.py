"""Programs compiled for CUDA are read as one would by hand, and what is missing is said in one line."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.cuda.__main__ import main, seconds
from benchmarks.cuda.cards import CARDS, LAUNCH
from benchmarks.cuda.collectives import collectives_of
from benchmarks.cuda.environment import wheels
from benchmarks.cuda.hlo import Array, Program
from benchmarks.cuda.kernels import Kernel, kernels_of, step_of
from nanogpt.errors import InputError

# A loop of no fixed length. A step of it is a slice, a matmul in XLA's own kernel, an inner loop of three
# turns, a call of cuDNN and an update in place.
TEXT = """HloModule jit_f, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%sliced (p.0: f32[64,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[64,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={1,8}
}

%gemm (p.2: bf16[16,8], p.3: bf16[8,4]) -> bf16[16,4] {
  %p.2 = bf16[16,8]{1,0} parameter(0)
  %p.3 = bf16[8,4]{1,0} parameter(1)
  %dot.1 = bf16[16,4]{1,0} dot(%p.2, %p.3), lhs_contracting_dims={1}, PRECISION
  ROOT %negate.1 = bf16[16,4]{1,0} negate(%dot.1), metadata={op_name="jit(f)/neg"}
}

%updated (p.4: f32[64], p.5: f32[1], p.6: s32[]) -> (f32[64], pred[2]) {
  %p.4 = f32[64]{0} parameter(0)
  %p.5 = f32[1]{0} parameter(1)
  %p.6 = s32[] parameter(2)
  %update = f32[64]{0} dynamic-update-slice(%p.4, %p.5, %p.6)
  %flags = pred[2]{0} constant({true, false})
  ROOT %both = (f32[64]{0}, pred[2]{0}) tuple(%update, %flags)
}

%turn (a.0: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a.0 = (s32[], /*index=1*/f32[8]{0}) parameter(0)
  %a.1 = s32[] get-tuple-element(%a.0), index=0
  %a.2 = f32[8]{0} get-tuple-element(%a.0), index=1
  %copy.1 = f32[8]{0} copy(%a.2)
  ROOT %a.3 = (s32[], f32[8]{0}) tuple(%a.1, %copy.1)
}

%step (s.0: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %s.0 = (s32[], f32[64,8]{1,0}) parameter(0)
  %s.1 = s32[] get-tuple-element(%s.0), index=0
  %s.2 = f32[64,8]{1,0} get-tuple-element(%s.0), index=1
  %x = bf16[16,8]{1,0} constant({...})
  %w = bf16[8,4]{1,0} constant({...})
  %q = bf16[2,16,4,8]{3,2,1,0} constant({...})
  %row.1 = f32[1,8]{1,0} fusion(%s.2, %s.1), kind=kLoop, calls=%sliced, metadata={op_name="jit(f)/slice"}
  %gemm.1 = bf16[16,4]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm
  %start = (s32[], f32[8]{0}) tuple(%s.1, %row.1)
  %inner = (s32[], f32[8]{0}) while(%start), body=%turn, backend_config={"known_trip_count":{"n":"3"}}
  %fmha = (bf16[2,4,16,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  %blas = (bf16[16,4]{1,0}, s8[99]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", BLAS
  %line = f32[64]{0} bitcast(%s.2)
  %done.1 = (f32[64]{0}, pred[2]{0}) fusion(%line, %row.1, %s.1), kind=kLoop, calls=%updated
  ROOT %s.3 = (s32[], f32[64,8]{1,0}) tuple(%s.1, %s.2)
}

ENTRY %main (m.0: f32[64,8]) -> f32[64,8] {
  %m.0 = f32[64,8]{1,0} parameter(0)
  %nought = s32[] constant(0)
  %copy.2 = s32[] copy(%nought)
  %before = (s32[], f32[64,8]{1,0}) tuple(%copy.2, %m.0)
  %loop = (s32[], f32[64,8]{1,0}) while(%before), condition=%until, body=%step
  ROOT %after = f32[64,8]{1,0} get-tuple-element(%loop), index=1
}
"""

BLAS = """backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],
"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}"""
TEXT = TEXT.replace("BLAS", BLAS.replace("\n", ""))


def step(precision: str = "rhs_contracting_dims={0}", dtype: str = "bf16") -> dict[str, Kernel]:
    program = Program(TEXT.replace("PRECISION", precision).replace("bf16", dtype))
    assert program.loops == ["step"]
    return {kernel.name: kernel for kernel in step_of(program)}


def test_a_step_is_one_turn_of_the_loop_and_inner_loops_count_as_often_as_they_turn() -> None:
    assert [kernel.name for kernel in step_of(Program(TEXT))] == [
        *("row.1", "gemm.1", "copy.1", "copy.1", "copy.1", "fmha", "blas", "done.1")
    ]
    assert kernels_of(Program(TEXT), "main")[0].name == "copy.2"


def test_a_kernel_reads_the_slices_that_it_takes_and_writes_the_part_that_it_updates() -> None:
    kernels = step()
    assert (kernels["row.1"].read, kernels["row.1"].written) == (8 * 4 + 4, 8 * 4)
    assert (kernels["gemm.1"].read, kernels["gemm.1"].written) == (2 * (16 * 8 + 8 * 4), 2 * 16 * 4)
    assert (kernels["done.1"].read, kernels["done.1"].written) == (4 + 4, 4 + 2)
    assert (kernels["copy.1"].read, kernels["copy.1"].written) == (32, 32)
    assert kernels["fmha"].outputs == [Array("bf16", (2, 4, 16, 8))]
    assert kernels["row.1"].source == "jit(f)/slice"


@pytest.mark.parametrize(
    ("dtype", "precision", "kind", "peak"),
    [
        ("bf16", "operand_precision={highest,highest}", "bf16", "bfloat16"),
        ("f32", "operand_precision={highest,highest}", "f32", "float32"),
        ("f32", "operand_precision={high,high}", "f32", "float32"),
        ("f32", "rhs_contracting_dims={0}", "tf32", "tf32"),
        ("f32", "algorithm=dot_tf32_tf32_f32", "tf32", "tf32"),
        ("f64", "rhs_contracting_dims={0}", "f64", "float32"),
    ],
)
def test_a_matmul_counts_in_its_precision(dtype: str, precision: str, kind: str, peak: str) -> None:
    gemm = step(precision, dtype)["gemm.1"]
    assert gemm.matmuls == Counter({kind: 1})
    assert gemm.flops == Counter({peak: 2 * 16 * 8 * 4}) + Counter({"float32": 16 * 4})


def test_the_fused_attention_is_two_matmuls_under_a_causal_mask() -> None:
    fmha = step()["fmha"]
    assert fmha.library == "__cudnn$fmhaSoftmax"
    # Each of two matmuls takes 2 B H T T D FLOPs, and the mask hides half.
    assert fmha.flops == Counter({"bfloat16": 2 * (2 * 2 * 4 * 16 * 16 * 8) // 2})


def test_a_matmul_of_cublas_counts_like_any_other_and_its_scratch_memory_does_not() -> None:
    blas = step(dtype="f32")["blas"]
    assert (blas.library, blas.outputs, blas.written) == (
        "__cublas$lt$matmul",
        [Array("f32", (16, 4))],
        16 * 4 * 4,
    )
    assert (blas.matmuls, blas.flops) == (Counter(f32=1), Counter(float32=2 * 16 * 8 * 4))


COLLECTIVES = """
  %p = bf16[8,4]{1,0} parameter(0)
  %g = (bf16[8,4]{1,0}, bf16[64,4]{1,0}) all-gather-start(%p), replica_groups=[2,8]<=[16], dimensions={0}
  %d = bf16[64,4]{1,0} all-gather-done(%g)
  %s = ((f32[16]{0}, f32[8]{0}), (f32[4]{0}, f32[2]{0})) reduce-scatter-start(%x), replica_groups={{0,1,2,3}}
  %t = f32[4]{0} reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}
  %r = f32[6]{0} all-reduce-start(%z), replica_groups=mesh['a'=2,'b'=8] {'a', 'b':(1)4}, to_apply=%sum
  %c = (f32[6]{0}, f32[6]{0}) collective-permute-start(%z), source_target_pairs={{0,1},{1,2},{2,0}}"""


def test_collectives_count_with_what_their_group_has_together() -> None:
    found = collectives_of(Program(f"ENTRY %f (p: f32[]) -> f32[] {{{COLLECTIVES}\n}}"))
    assert [(c.kind, c.group, c.bytes, c.sent) for c in found] == [
        ("all-gather", 8, 512, 512 * 7 / 8),
        ("reduce-scatter", 4, 96, 96 * 3 / 4),
        ("reduce-scatter", 4, 64, 64 * 3 / 4),
        ("all-reduce", 8, 24, 2 * 24 * 7 / 8),
        ("collective-permute", 3, 24, 24),
    ]
    strange = Program(f"ENTRY %f (p: f32[]) -> f32[] {{{COLLECTIVES.replace('[2,8]<=[16]', 'all')}\n}}")
    with pytest.raises(ValueError, match="not understood"):
        collectives_of(strange)


@pytest.mark.parametrize("opcode", ["conditional(%x)", 'custom-call(%x), custom_call_target="unknown"'])
def test_what_is_not_understood_is_refused(opcode: str) -> None:
    text = TEXT.replace("bitcast(%s.2)", opcode)
    with pytest.raises(ValueError, match="is not known"):
        step_of(Program(text))


def test_the_least_time_is_that_of_memory_or_of_arithmetic_and_a_launch() -> None:
    card = CARDS["a100"]
    by_memory = Kernel("", "", None, 2 * 10**9, 10**9, [], Counter(bfloat16=1), Counter())
    assert seconds(by_memory, card) == pytest.approx(3e9 / 2039.04e9 + LAUNCH)
    by_arithmetic = Kernel(
        "", "", None, 1, 1, [], Counter(bfloat16=312 * 10**9, float32=195 * 10**8), Counter()
    )
    assert seconds(by_arithmetic, card) == pytest.approx(1e-3 + 1e-3 + LAUNCH)


def test_wheels_that_cant_be_had_are_one_clear_error_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"^the wheels that compile for CUDA can't be installed: .*jax-cuda"):
        wheels()
    assert [file.suffix for file in (tmp_path / "nanogpt").iterdir()] in ([], [".lock"])


def test_an_unknown_program_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cuda", "logit"])
    with pytest.raises(SystemExit, match=r"^error: there is no program 'logit'; there are: .*; logits; "):
        main()


def test_every_card_has_its_peaks_and_a_description() -> None:
    for card in CARDS.values():
        assert (
            card.flops_per_second("bfloat16")
            > card.flops_per_second("tf32")
            >= card.flops_per_second("float32")
        )
        assert f'device_description_str: "{card.name}"' in card.description()


def test_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("module @jit_f {}")
