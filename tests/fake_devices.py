"""Several devices where there is one: tensors carry the name of a device, and those of two devices do not meet.

Inside `with FakeDevices():` a tensor made on "cpu:1" (or moved there) says that it is there, computes as ever, and is
refused beside one of "cpu:2", as it would be on two GPUs. What has not been placed is on "cpu". Indices may lie on
"cpu", numbers without axes anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

CPU = torch.device("cpu")
ONE, TWO = torch.device("cpu:1"), torch.device("cpu:2")
MOVES = ("to", "cpu", "cuda")
FREE = (
    "copy_",
    "__set__",
    "_has_compatible_shallow_copy_type",
    "backward",
    "set_",
    "_make_subclass",
    "untyped_storage",
    "is_set_to",
)


class FakeDevices(TorchFunctionMode):
    """Names of devices for tensors, inside its `with`."""

    def __init__(self) -> None:
        super().__init__()
        self._where = WeakTensorKeyDictionary()

    def __enter__(self) -> FakeDevices:
        made = self._plain_new = torch.nn.Parameter.__new__

        def new(cls: Any, data: Any = None, requires_grad: bool = True) -> torch.nn.Parameter:
            parameter = made(cls, data, requires_grad)
            if isinstance(data, torch.Tensor):
                self._where[parameter] = self.where(data)
            return parameter

        torch.nn.Parameter.__new__ = new  # what no function of torch's tells
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        torch.nn.Parameter.__new__ = self._plain_new

    def where(self, tensor: torch.Tensor) -> torch.device:
        return self._where.get(tensor, CPU)

    def place(self, module: torch.nn.Module, device: torch.device) -> None:
        """Parameters and buffers of a module, as they are."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._where[tensor] = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return self.where(args[0])
        if func == torch.Tensor.data.__set__:
            self._where[args[0]] = self.where(args[1])
        name, wanted = func.__name__, None
        if name == "_parse_to":  # what Module.to is given
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            wanted = torch.device(kwargs.pop("device"))
        if name in MOVES:
            devices = [torch.device(x) for x in args[1:] if isinstance(x, (str, torch.device))]
            devices += [self.where(x) for x in args[1:] if isinstance(x, torch.Tensor)]
            wanted = devices[0] if devices else CPU if name == "cpu" else wanted
            return self._moved(func, args, kwargs, wanted)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        here = self._meeting(name, args, tensors)
        args = tree_map(lambda x: "cpu" if isinstance(x, torch.device) else x, args)
        out = func(*args, **kwargs)
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and made not in self._where:
                self._where[made] = wanted or here
        return out

    def _moved(self, func: Any, args: Any, kwargs: Any, wanted: torch.device | None) -> torch.Tensor:
        source = args[0]
        rest = [x for x in args[1:] if isinstance(x, torch.dtype)]
        out = func(source, *rest, **kwargs) if rest or kwargs else source
        wanted = wanted or self.where(source)
        if out is source:
            if wanted == self.where(source):
                return source
            out = source.clone()
        self._where[out] = wanted
        return out

    def _meeting(self, name: str, args: Any, tensors: list[torch.Tensor]) -> torch.device:
        """Where they all are. Raises RuntimeError for two devices."""
        counted = [x for x in tensors if x.ndim > 0]
        devices = {self.where(x) for x in counted}
        if name in ("__getitem__", "__setitem__") and len(devices) > 1:
            devices = {self.where(args[0])} | (devices - {CPU})
        if len(devices) > 1 and name not in FREE:
            raise RuntimeError(f"{name}: tensors are on {sorted(map(str, devices))}")
        first = counted[0] if counted else tensors[0] if tensors else None
        return CPU if first is None else self.where(first)


def spread(devices: FakeDevices, hf: torch.nn.Module, blocks: torch.nn.ModuleList) -> torch.nn.Module:
    """A Hugging Face model on two devices, the last blocks and the head on the second, as accelerate spreads one.

    Accelerate's own hooks move what goes into each module, and the logits back.
    """
    names = {id(module): name for name, module in hf.named_modules()}
    second = {names[id(block)] for block in blocks[1:]}
    devices.place(hf, ONE)
    device_map = {}
    for name, module in hf.named_modules():
        is_block = any(module is block for block in blocks)
        if not is_block and (not name or list(module.children())):
            continue
        if any(name.startswith(f"{names[id(block)]}.") for block in blocks):
            continue
        where = TWO if name in second or name.endswith(("norm", "ln_f", "lm_head", "embed_out", "layer_norm")) else ONE
        device_map[name] = str(where)
        devices.place(module, where)
        add_hook_to_module(module, AlignDevicesHook(execution_device=where, place_submodules=False))
    add_hook_to_module(hf, AlignDevicesHook(io_same_device=True))
    hf.hf_device_map = device_map
    return hf
