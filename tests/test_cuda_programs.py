"""These things hold in every program of the JAX twin on CUDA, as programs compiled for an H100 show.

On a card a breach would show as slowness or wrong numbers alone. tests/cuda_cases.py lists what is compiled.
Some of its backends are wrong on purpose, and each must be noticed.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

from benchmarks.cuda.__main__ import main
from benchmarks.cuda.cards import CARDS
from benchmarks.cuda.collectives import collectives_of
from benchmarks.cuda.environment import run_python
from benchmarks.cuda.hlo import Array, Program
from benchmarks.cuda.kernels import kernels_of, step_of
from benchmarks.scale import volumes
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.errors import InputError
from nanogpt.mesh import Mesh
from nanogpt.muon import is_moved_by_muon
from nanogpt.state import TrainingState
from nanogpt.weights import count_parameters, weight_shapes
from tests.cuda_cases import SHALLOW, WIDE

pytestmark = pytest.mark.long

ON_HOST = re.compile(r" (infeed|outfeed|send|recv)\(|callback|S\(5\)")
STEPS = ["step, float32", "step, tf32", "step, bfloat16", "step, attention dropout", "whole step"]
TOKENS = ["token in the window, batch 2", "token past the window, batch 2"]
PROGRAMS = [*STEPS, "evaluation", "prefill, batch 2", *TOKENS]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def compiled(shared: Path) -> Path:
    """The programs of a single card."""
    return compiled_once(shared / "cuda")


@pytest.fixture
def meshed(shared: Path, name: str) -> Path:
    """A program of several cards, which takes half a minute."""
    return compiled_once(shared / name, name)


def compiled_once(folder: Path, *names: str) -> Path:
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            try:
                run_python("-m", "tests.cuda_cases", str(folder), *names)
            except InputError as error:
                pytest.skip(str(error))
            (folder / "done").touch()
    return folder


def read(folder: Path, name: str) -> Program:
    return Program((folder / f"{name}.hlo").read_text(encoding="utf-8"))


def facts(folder: Path, name: str) -> dict[str, float]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def float64s(program: Program) -> list[str]:
    return re.findall(r"\b(?:f64|c128)\[.*", program.text)


def on_host(program: Program) -> list[str]:
    return [line for line in program.text.splitlines() if ON_HOST.search(line.split("metadata=")[0])]


def masks(program: Program) -> list[Array]:
    """Integers and booleans that kernels write, at least one for each element of a layer's activations."""
    least = 64 * SHALLOW.block_size * SHALLOW.n_embd
    written = [array for kernel in step_of(program) for array in kernel.outputs]
    return [array for array in written if not array.dtype.startswith(("f", "bf")) and array.size >= least]


def state_bytes(config: ModelConfig, training: TrainingConfig = TrainingConfig()) -> int:  # noqa: B008
    """Weights, first moments, AdamW's second moments and the number of the step."""
    state = TrainingState.initial(config, 0)
    second = [m for name, m in state.second_moment.items() if not is_moved_by_muon(name, training)]
    return sum(a.nbytes for a in [*state.weights.values(), *state.first_moment.values(), *second]) + 4


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_holds_float64_or_speaks_to_the_host(compiled: Path, name: str) -> None:
    program = read(compiled, name)
    assert float64s(program) == []
    assert on_host(program) == []


@pytest.mark.parametrize("name", STEPS)
def test_weights_and_moments_are_updated_in_their_own_memory(compiled: Path, name: str) -> None:
    config = ModelConfig() if name == "whole step" else SHALLOW
    assert facts(compiled, name)["aliased"] == state_bytes(config)


@pytest.mark.parametrize("name", STEPS)
def test_any_number_of_steps_is_one_loop_in_one_program(compiled: Path, name: str) -> None:
    """A wrong number of programs would already have ended the compilation."""
    program = read(compiled, name)
    assert len(program.loops) == 1
    inside, everywhere = (
        sum((kernel.matmuls for kernel in kernels), Counter())
        for kernels in (step_of(program), kernels_of(program, program.entry))
    )
    assert inside == everywhere


@pytest.mark.parametrize(
    ("name", "of_model", "of_optimizer"),
    [
        ("step, float32", "f32", "f32"),
        ("step, tf32", "tf32", "tf32"),
        ("step, bfloat16", "bf16", "f32"),  # Muon computes in float32
        ("step, attention dropout", "bf16", "f32"),
        ("evaluation", "bf16", ""),
    ],
)
def test_matmuls_have_the_precision_of_the_run(
    compiled: Path, name: str, of_model: str, of_optimizer: str
) -> None:
    precisions = {"forward or backward": Counter[str](), "optimizer": Counter[str]()}
    for kernel in step_of(read(compiled, name)):
        is_of_model = "jvp" in kernel.source or name == "evaluation"
        precisions["forward or backward" if is_of_model else "optimizer"] += kernel.matmuls
    # Gradients of the two embeddings are summed in float32, by matmuls.
    summed = 2 if of_model == "bf16" and name != "evaluation" else 0
    assert precisions["forward or backward"]["f32"] == summed or of_model == "f32"
    assert set(precisions["forward or backward"]) == {of_model} | ({"f32"} if summed else set())
    assert set(precisions["optimizer"]) == set(filter(None, [of_optimizer]))


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("step, float32", 0, 0),
        ("step, tf32", 0, 0),
        ("step, bfloat16", 2, 2),
        ("step, attention dropout", 0, 0),
        ("whole step", 6, 6),
        ("evaluation", 2, 0),
        ("prefill, batch 2", 1, 0),  # the last block is asked for keys and values alone
        ("token in the window, batch 2", 0, 0),  # a single query
        ("token past the window, batch 2", 1, 0),  # and a single query in the last block
    ],
)
def test_cudnns_attention_is_called_where_it_fits_and_nowhere_else(
    compiled: Path, name: str, forward: int, backward: int
) -> None:
    calls = Counter(kernel.library for kernel in step_of(read(compiled, name)) if kernel.library)
    expected = {"__cudnn$fmhaSoftmax": forward, "__cudnn$fmhaSoftmaxBackward": backward}
    assert calls == Counter({target: count for target, count in expected.items() if count})


@pytest.mark.parametrize("name", STEPS)
def test_dropout_masks_are_fused_into_their_kernels(compiled: Path, name: str) -> None:
    program = read(compiled, name)
    assert " shift-right-logical(" in program.text  # the hash is there
    # XLA writes the mask of a layer's attention weights once, for both directions, as booleans.
    of_weights = Array("pred", (64, SHALLOW.n_head, SHALLOW.block_size, SHALLOW.block_size))
    assert masks(program) == (2 * [of_weights] if name == "step, attention dropout" else [])


def test_the_loss_in_bfloat16_writes_no_logits_in_float32(compiled: Path) -> None:
    """Those of GPT-2 are 6.6 GB at batch 32."""
    logits = Array("f32", (64, SHALLOW.block_size, SHALLOW.vocab_size))
    written = [array for kernel in step_of(read(compiled, "step, bfloat16")) for array in kernel.outputs]
    like_logits = [a for a in written if a.size == logits.size and a.shape[-1] == logits.shape[-1]]
    types = {array.dtype for array in like_logits}
    assert "bf16" in types
    assert "f32" not in types


def test_a_whole_step_stays_within_its_bounds(compiled: Path) -> None:
    """The default model at batch 64 in bfloat16, as jax 0.10.2 compiles it, with a fifth to spare."""
    program = read(compiled, "whole step")
    step = step_of(program)
    assert len(step) < 1.2 * 500
    assert sum(kernel.read + kernel.written for kernel in step) < 1.2 * 3.93e9
    assert facts(compiled, "whole step")["temporaries"] < 1.2 * 336e6


def test_a_batch_too_large_for_a_card_is_trained_in_micro_batches(compiled: Path) -> None:
    """On 24 GiB, of which the batch's temporaries alone would need 32."""
    needed = facts(compiled, "GPT-2 at batch 64")
    assert needed["temporaries"] + needed["aliased"] < 0.9 * CARDS["rtx4090"].memory


@pytest.mark.parametrize(("name", "kernels"), [(TOKENS[0], 46), (TOKENS[1], 40)])
def test_a_token_stays_within_its_bounds(compiled: Path, name: str, kernels: int) -> None:
    assert len(step_of(read(compiled, name))) < 1.2 * kernels


SHARED = {"fsdp=8": Mesh(1, 8), "fsdp=8, recomputed": Mesh(1, 8), "data=2,fsdp=8": Mesh(2, 8)}
# One of them is always compiled; the others take more than CI's time.
SHARING = ["fsdp=8", *(pytest.param(name, marks=pytest.mark.slow) for name in [*SHARED][1:])]
ALL = [*SHARING, *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp=8, Muon", "data=8"))]
KERNELS = Counter(tuple(sorted(s)) for name, s in weight_shapes(WIDE).items() if name.endswith(".kernel"))


def whole_kernels(arrays: list[Array]) -> Counter[tuple[int, ...]]:
    """Arrays of the size of a block's kernel, by shape: XLA may transpose them."""
    shapes = (tuple(sorted(array.shape)) for array in arrays)
    return Counter(shape for shape in shapes if shape in KERNELS)


@pytest.mark.parametrize("name", SHARING)
def test_fsdp_gathers_and_scatters_each_kernel_once_on_each_way(meshed: Path, name: str) -> None:
    """Among the cards of a host, in the type of the computation; and activations stay where they are.

    The way back uses what the way forward has gathered, unless it recomputes.
    """
    found, parameters = collectives_of(read(meshed, name)), count_parameters(WIDE)
    for kind, times in (("all-gather", 2 if "recomputed" in name else 1), ("reduce-scatter", 1)):
        inside = [c for c in found if c.kind == kind]
        assert {c.group for c in inside} == {8}
        whole = [array for c in inside for array in c.arrays]
        assert whole_kernels(whole) == Counter({shape: times * n for shape, n in KERNELS.items()})
        assert {a.dtype for a in whole if whole_kernels([a])} == {"bf16"}
        # The embedding is gathered for each of its uses; a layer's activations would be twice its weights.
        assert sum(c.bytes for c in inside) < 2 * parameters * (times + 1)
    assert {c.kind for c in found} == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data=2,fsdp=8"])
def test_hosts_send_each_other_shares_of_the_gradient_alone(meshed: Path, name: str) -> None:
    between = [c for c in collectives_of(read(meshed, name)) if c.group != 8]
    gradients = sum(c.bytes for c in between if c.group == 2)
    parameters = count_parameters(WIDE)
    assert {c.kind for c in between} == {"all-reduce"}
    assert 2 * parameters / 8 <= gradients < 4 * parameters / 8  # in bfloat16, but for the embedding's
    assert sum(c.bytes for c in between if c.group == 16) < gradients / 100


@pytest.mark.parametrize("name", ALL)
def test_each_card_holds_its_share(meshed: Path, name: str) -> None:
    training = TrainingConfig(optimizer="muon" if "Muon" in name else "adamw")
    whole = state_bytes(WIDE, training) - 4  # without the number of the step
    assert facts(meshed, name)["aliased"] == whole / (8 if "fsdp" in name else 1) + 4


@pytest.mark.parametrize("name", [*SHARING, pytest.param("data=8", marks=pytest.mark.slow)])
def test_each_card_updates_its_share(meshed: Path, name: str) -> None:
    optimizer = [kernel for kernel in step_of(read(meshed, name)) if "jvp" not in kernel.source]
    written = [array for kernel in optimizer for array in kernel.outputs if array.dtype == "f32"]
    assert bool(whole_kernels(written)) == (name == "data=8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data=8"])
def test_data_parallel_cards_sum_up_gradients_and_send_nothing_else(meshed: Path, name: str) -> None:
    found = collectives_of(read(meshed, name))
    assert {(c.kind, c.group) for c in found} == {("all-reduce", 8)}
    parameters = count_parameters(WIDE)
    assert 2 * parameters <= sum(c.bytes for c in found) < 4 * parameters


@pytest.mark.parametrize("name", [*SHARING, pytest.param("data=8", marks=pytest.mark.slow)])
def test_the_cost_model_knows_what_cards_send(meshed: Path, name: str) -> None:
    mesh = SHARED.get(name, Mesh(8, 1))
    expected = volumes(WIDE, mesh, 64 // mesh.size, remat="recomputed" in name)
    for kind in ("all-gather", "reduce-scatter", "all-reduce"):
        found = sum(c.bytes for c in collectives_of(read(meshed, name)) if c.kind == kind)
        assert found == pytest.approx(expected[kind], rel=0.01, abs=2 * WIDE.block_size * WIDE.n_embd)


@pytest.mark.slow
def test_gpt2_xl_trains_on_eight_cards(tmp_path: Path) -> None:
    """With eight rows on each, in bfloat16, and --remat."""
    name = f"GPT-2 XL, {Mesh(1, 8)}, batch 64, --remat"
    run_python("-m", "benchmarks.cuda.programs", "h100", str(tmp_path), name)
    needed = facts(tmp_path, name)
    assert needed["temporaries"] + needed["aliased"] < 0.9 * CARDS["h100"].memory


def test_wrong_backends_are_noticed(compiled: Path) -> None:
    assert float64s(read(compiled, "Float64"))
    assert facts(compiled, "NoDonation")["aliased"] == 0


@pytest.mark.slow
def test_machine_code_multiplies_in_the_precision_of_the_run(compiled: Path) -> None:
    """A precision in a program is a permission: only the machine code tells what a kernel makes of it."""
    folder = compiled / "ptx"
    run_python("-m", "tests.cuda_cases", str(compiled), "tiny", xla_flags=f"--xla_dump_to={folder}")
    multiplied: dict[str, set[str]] = {}
    for file in sorted(folder.glob("module_*.jit__train_steps.*.ptx")):
        found = re.findall(r"\bw?g?mma\.[\w.:]*?\.(tf32|bf16|f16)\b", file.read_text(encoding="utf-8"))
        multiplied.setdefault(file.name.split(".")[0], set()).update(found)
    # float32 on its way through tensor cores would lose digits.
    assert list(multiplied.values()) == [set(), {"tf32"}, {"bf16"}]


@pytest.mark.usefixtures("compiled")
def test_the_command_prints_a_table_and_keeps_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["logits", "--card=rtx4090", f"--json={tmp_path / 'cuda.json'}", f"--folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["cuda", *flags])
    main()
    (name, figures), *others = json.loads((tmp_path / "cuda.json").read_text(encoding="utf-8")).items()
    assert (name, others) == ("logits", [])
    assert figures["library calls"] == {"__cudnn$fmhaSoftmax": ModelConfig().n_layer}
    # 24 products of activations with the blocks' kernels, and one with the head's.
    assert figures["matmuls"] == {"bf16": 4 * ModelConfig().n_layer + 1}
    assert figures["roofline seconds"] > figures["launch seconds"] > 0
    shown = capsys.readouterr().out
    assert "RTX 4090" in shown
    assert f"{1e3 * figures['roofline seconds']:.3f}" in shown
    assert (tmp_path / "logits.hlo").exists()


def test_a_call_of_the_host_is_noticed() -> None:
    call = '  ROOT %x = f32[] custom-call(), custom_call_target="xla_ffi_python_gpu_callback"'
    assert on_host(Program(f"ENTRY %f () -> f32[] {{\n{call}\n}}")) == [call]
