"""What the GPU bench needs of a device: graphs, event times, memory, two floors. `Rehearsal` does the same with the CPU, so
that every line around it can run where no GPU is; its times mean nothing and are never called measurements."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import subprocess
import time
from collections.abc import Callable

import torch

Call = Callable[[], object]

# Datasheet bandwidth by the name the driver gives, GB/s; other chips have none, and percentages of it are left out.
SPEC_GBPS = {"NVIDIA H200": 4800.0, "NVIDIA H100 80GB HBM3": 3352.0}
# How long the device is kept busy while the host queues what is timed behind it: about 0.1 ms.
_DELAY_CYCLES = 200_000
# Free memory in torch's cache above which it is given back before a capture.
_CACHE_BYTES = 4 << 30
# More than dlm_cuda_read_stream wants for its sink.
_SCRATCH_BYTES = 1 << 16
_SMI_FIELDS = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks.max.sm")


class Graph:
    """A captured sequence of calls. `replay()` runs it; `launches` counts its kernels, None where that is unknown."""

    def __init__(self, replay: Call, launches: int | None = None) -> None:
        self.replay, self.launches = replay, launches


class Cuda:
    """The current CUDA device."""

    kind = "cuda"

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        facts = torch.cuda.get_device_properties(self.device)
        self.name, self.l2_bytes, self.memory_bytes = facts.name, facts.L2_cache_size, facts.total_memory
        self._facts = facts
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        # No two graphs run at once and nobody reads their outputs, so they may share their temporaries. A pool lives as long as
        # a graph in it does, and takes no new ones after that: hence the list. Two pools, because the workspace of a captured
        # step of ours is kept for good, and would hold on to the peers' gigabytes.
        self._pools, self._kept = {}, []
        self._stream = torch.cuda.Stream()
        self._scratch = torch.zeros(_SCRATCH_BYTES, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, work: Call, count: bool = False, pool: str = "peers") -> Graph:
        """`work` as one CUDA graph; it must have run before. `count`: tell the number of kernels."""
        self.synchronize()
        handle = self._pools.setdefault(pool, torch.cuda.graph_pool_handle())
        if torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > _CACHE_BYTES:
            torch.cuda.empty_cache()  # the pool of the graphs cannot use what the other one holds
        graph = torch.cuda.CUDAGraph(keep_graph=True) if count else torch.cuda.CUDAGraph()
        # As torch.cuda.graph does it, without its garbage collection: hundreds of captures would wait for that.
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=handle, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(Exception):
                    graph.capture_end()
                del self._pools[pool]  # it may be half released
                raise
            graph.capture_end()
        self._kept.append(graph)
        launches = None
        if count:
            with contextlib.suppress(Exception):
                launches = _kernel_nodes(graph.raw_cuda_graph())
            graph.instantiate()
        graph.replay()
        self.synchronize()
        return Graph(graph.replay, launches)

    def seconds(self, replay: Call) -> float:
        """Device time of one replay. The device is busy when the first event is queued, or the time the host needs to
        launch the graph would count."""
        first, last = self._events
        self.synchronize()
        torch.cuda._sleep(_DELAY_CYCLES)
        first.record()
        replay()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def wall_seconds(self, call: Call) -> float:
        """From the host's call to the host seeing the device idle again."""
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - start

    def peak_extra_bytes(self, call: Call) -> int:
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def reader(self) -> tuple[str, Callable[[torch.Tensor], object]]:
        """(name, function that reads every byte of a contiguous tensor once, capturable)."""
        read = _library_reader()
        if read is None:
            return "torch.sum", _torch_read

        def call(data: torch.Tensor) -> None:
            size, stream = data.numel() * data.element_size(), torch.cuda.current_stream().cuda_stream
            error = ctypes.create_string_buffer(1024)  # struct dlm_error of csrc/api.h
            if read(data.data_ptr(), size, self._scratch.data_ptr(), stream, error):
                raise RuntimeError(
                    f"dlm_cuda_read_stream: {error.raw[4:].partition(bytes(1))[0].decode(errors='replace')}"
                )

        return "dlm_cuda_read_stream", call

    def release(self) -> None:
        """Drop all graphs and give their memory back, or those of one case would starve the next."""
        self.synchronize()
        self._kept.clear()
        self._pools.clear()
        gc.collect()
        torch.cuda.empty_cache()

    def describe(self) -> dict:
        facts = self._facts
        capability = f"sm_{facts.major}{facts.minor}"
        return {
            "gpu": self.name,
            "capability": capability,
            "multiprocessors": facts.multi_processor_count,
            "l2_bytes": self.l2_bytes,
            "gpu_memory_gib": round(self.memory_bytes / 2**30, 1),
            "cuda": torch.version.cuda,
            "spec_gbps": SPEC_GBPS.get(self.name),
            **self.state(),
        }

    def state(self) -> dict:
        """Driver, clocks, power and temperature as nvidia-smi reads them now; {} where it is missing. Only read."""
        index = self.device.index or 0
        query = f"--query-gpu={','.join(_SMI_FIELDS)}"
        command = ["nvidia-smi", f"--id={index}", query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
        except (OSError, subprocess.SubprocessError, IndexError):
            return {}
        names = ("driver", "sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c", "sm_clock_max_mhz")
        return dict(zip(names, values)) if len(values) == len(names) else {}


class Rehearsal:
    """The CPU in the place of a GPU, for a dry run of the bench."""

    kind = "rehearsal"
    name, l2_bytes, memory_bytes = "rehearsal (no GPU)", 1 << 16, 1 << 30

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def synchronize(self) -> None:
        pass

    def capture(self, work: Call, count: bool = False, pool: str = "peers") -> Graph:
        work()
        return Graph(work)

    def seconds(self, replay: Call) -> float:
        return self.wall_seconds(replay)

    def wall_seconds(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def peak_extra_bytes(self, call: Call) -> int:
        call()
        return 0

    def reader(self) -> tuple[str, Callable[[torch.Tensor], object]]:
        return "torch.sum", _torch_read

    def release(self) -> None:
        pass

    def describe(self) -> dict:
        return {"gpu": self.name, "capability": "none", "l2_bytes": self.l2_bytes, "cuda": None, "spec_gbps": None}

    def state(self) -> dict:
        return {}


def open_device(kind: str) -> Cuda | Rehearsal:
    """ "cuda" or "rehearsal"; RuntimeError where there is no GPU."""
    if kind == "rehearsal":
        return Rehearsal()
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device here (torch.cuda.is_available() is False)")
    return Cuda()


def _torch_read(data: torch.Tensor) -> torch.Tensor:
    size = data.numel() * data.element_size()
    flat = data.view(-1)
    return flat.view(torch.float32).sum() if size % 4 == 0 else flat.sum()


def _library_reader() -> Callable | None:
    """dlm_cuda_read_stream of csrc/api.h, or None."""
    try:
        from .. import _load

        read = getattr(_load.library(), "dlm_cuda_read_stream", None)
    except Exception:
        return None
    if read is not None:
        read.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3]
        read.restype = ctypes.c_int32
    return read


def _kernel_nodes(graph: int) -> int:
    """Kernel nodes of a captured cudaGraph_t, by the runtime that torch has loaded."""
    runtime = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}")
    number = ctypes.c_size_t()
    if runtime.cudaGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(number)):
        raise RuntimeError("cudaGraphGetNodes failed")
    nodes = (ctypes.c_void_p * number.value)()
    if runtime.cudaGraphGetNodes(ctypes.c_void_p(graph), nodes, ctypes.byref(number)):
        raise RuntimeError("cudaGraphGetNodes failed")
    kernels = 0
    for node in nodes[: number.value]:
        kind = ctypes.c_int()
        if runtime.cudaGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)):
            raise RuntimeError("cudaGraphNodeGetType failed")
        kernels += kind.value == 0  # cudaGraphNodeTypeKernel
    return kernels
