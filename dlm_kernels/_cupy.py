"""What a call on CUDA arrays needs of CuPy: the device and its current stream, memory for results, numbers as arrays. csrc/pybind
asks here; nothing imports this before the first CUDA array."""

try:
    import cupy
except ImportError as error:
    raise ImportError(
        "dlm_kernels.array needs CuPy for CUDA arrays, for its streams and the memory of results: pip install cupy-cuda13x "
        f"(or cupy-cuda12x); importing it failed: {error}"
    ) from error

_LIMIT = 1024  # constants kept
_constants = {}


class Current:
    """The device of a call, current until ``leave``, and CuPy's current stream on it."""

    def __init__(self, device):
        self._device = cupy.cuda.Device(device)
        self._device.__enter__()
        self._key = device
        self.stream = cupy.cuda.get_current_stream().ptr

    def leave(self):
        self._device.__exit__(None, None, None)

    def empty(self, shape, dtype):
        return cupy.empty(shape, dtype)

    def constant(self, values, dtype):
        """Python numbers as an array that nobody writes to; the same ones are made once. A stream has its own: a fill on one is
        not ordered before a read on another."""
        key = (values, dtype, self._key, self.stream)
        found = _constants.get(key)
        if found is None:
            found = cupy.array(values, dtype) if len(values) != 1 else cupy.full(1, values[0], dtype)
            if len(_constants) < _LIMIT:
                _constants[key] = found
        return found


def device_of(array, pointer):
    """The ordinal of the device that ``array`` lives on; its interface does not say."""
    if isinstance(array, cupy.ndarray):
        return array.device.id
    return cupy.cuda.runtime.pointerGetAttributes(pointer).device


def wait_for(stream, device):
    """Lets the current stream of ``device`` wait for what is enqueued on ``stream``, where that is another one."""
    with cupy.cuda.Device(device):
        ours = cupy.cuda.get_current_stream()
        if stream not in (ours.ptr, dlpack_stream(device)):
            ours.wait_event(cupy.cuda.ExternalStream(stream).record())


def dlpack_stream(device):
    """The current stream of ``device`` as DLPack and the CUDA array interface number it: 1 is the default stream, never 0."""
    with cupy.cuda.Device(device):
        return cupy.cuda.get_current_stream().ptr or 1


def put(array, like):
    """A NumPy array on the device of ``like``."""
    interface = getattr(like, "__cuda_array_interface__", None)
    device = like.__dlpack_device__()[1] if interface is None else device_of(like, interface["data"][0])
    with cupy.cuda.Device(device):
        return cupy.asarray(array)
