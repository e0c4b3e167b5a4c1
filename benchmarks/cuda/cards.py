"""NVIDIA cards as XLA and a roofline need them: nothing here was measured.

The figures are those of OpenXLA's own descriptions (h100_sxm.txtpb and a100_sxm_80.txtpb in
xla/backends/gpu/target_config/specs) and, for the RTX 4090, of NVIDIA's whitepaper of the Ada architecture
and CUDA's table of compute capabilities. Peak FLOP/s are in nanogpt/training/hardware.py.
"""

from dataclasses import dataclass

from nanogpt.training.hardware import PEAKS

CARDS_OF_A_HOST = 8
LAUNCH = 2e-6
"""Seconds that a kernel takes however little it does: an assumption."""


@dataclass(frozen=True)
class Card:
    """One card. Memory in bytes, rates in units per second."""

    name: str
    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    lanes_per_core: int
    threads_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    """The most that a kernel may ask for."""
    l2_cache: int
    memory: int
    bandwidth: float
    clock_ghz: float

    def flops_per_second(self, precision: str) -> float:
        """The dense peak in bfloat16, tf32 or float32."""
        peaks = next(peaks for name, peaks in PEAKS if name in self.name)
        return 1e12 * peaks[precision]

    def description(self) -> str:
        """The card as XLA's GpuTargetConfigProto in text form."""
        return f"""
        gpu_device_info {{
            cuda_compute_capability {{ major: {self.capability[0]} minor: {self.capability[1]} }}
            core_count: {self.cores} fpus_per_core: {self.lanes_per_core} clock_rate_ghz: {self.clock_ghz}
            threads_per_core_limit: {self.threads_per_core} threads_per_block_limit: 1024 threads_per_warp: 32
            shared_memory_per_core: {self.shared_memory_per_core} shared_memory_per_block: 49152
            shared_memory_per_block_optin: {self.shared_memory_per_block}
            registers_per_core_limit: 65536 registers_per_block_limit: 65536
            l2_cache_size: {self.l2_cache} device_memory_size: {self.memory}
            memory_bandwidth: {self.bandwidth:.0f}
            block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
        runtime_version {{ major: 13 minor: 0 patch: 0 }}
        device_description_str: "{self.name}"
        """


CARDS = {
    "h100": Card(
        *("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 233472, 232448),
        *(50 * 2**20, 84_942_979_072, 3352.32e9, 1.98),
    ),
    "a100": Card(
        *("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167936, 166912),
        *(40 * 2**20, 85_100_068_864, 2039.04e9, 1.41),
    ),
    "rtx4090": Card(
        *("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 1536, 102400, 101376),
        *(72 * 2**20, 24 * 2**30, 1008e9, 2.52),
    ),
}
