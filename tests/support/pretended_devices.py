"""Devices that are not there: CPU tensors that say where they lie, and an error for every operation that mixes them.

They are called ``meta:0``, ``meta:1``, …, since PyTorch knows those names on every machine; the numbers are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_CPU = torch.device("cpu")
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default}


class Placed(Tensor):
    """A CPU tensor that says it lies on another device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Placed:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        placed = Tensor._make_wrapper_subclass(cls, inner.size(), device=device, **layout)
        placed.inner = inner
        return placed

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `pretended`")

    # What reads values goes past the dispatcher, and would find that a meta tensor has none.
    def tolist(self) -> Any:
        return self.inner.tolist()

    def item(self) -> Any:
        return self.inner.item()

    def detach(self) -> Placed:
        return self

    def __int__(self) -> int:
        return int(self.inner)

    def __float__(self) -> float:
        return float(self.inner)

    def __bool__(self) -> bool:
        return bool(self.inner)

    def __index__(self) -> int:
        return int(self.inner)

    def __repr__(self) -> str:
        return f"{self.inner!r} on {self.device}"


class _Operations(TorchDispatchMode):
    """Runs every operation on the CPU and places what comes where the operation ran."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._fused_sdp_choice.default:
            return 0  # spelled out: the fused kernels are chosen by device
        kwargs = dict(kwargs or {})
        targets = [x for x in (*args, kwargs.get("device")) if isinstance(x, torch.device)]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        copies = func is torch.ops.aten.copy_.default
        if targets:
            device = targets[0]
        elif copies:
            device = args[0].device
        else:
            device = _common_device(func, args, tensors)
        args, kwargs = tree_map(lambda x: _CPU if isinstance(x, torch.device) else _plain(x), (args, kwargs))
        out = func(*args, **kwargs)
        if func._schema.is_mutable:  # what was changed in place is still the same tensor
            given = {id(_plain(x)): x for x in tensors}
            return tree_map(lambda x: given.get(id(x), x), out)
        return out if device == _CPU else tree_map(lambda x: Placed(x, device) if isinstance(x, Tensor) else x, out)


def _common_device(func: Any, args: tuple, tensors: list[Tensor]) -> torch.device:
    """Where an operation runs. As on a real device, single numbers and the indices of a tensor may lie on the CPU."""
    placed = {x.device for x in tensors if isinstance(x, Placed)}
    free = func in _INDEXED and isinstance(args[0], Placed)
    others = [] if free else [x for x in tensors if not isinstance(x, Placed) and x.dim() and x.numel()]
    devices = placed | ({_CPU} if others else set())
    if len(devices) > 1:
        raise RuntimeError(f"{func} on tensors of {', '.join(sorted(map(str, devices)))}")
    return placed.pop() if placed else _CPU


class _Constructors(TorchFunctionMode):
    """Data and indices from Python lists: PyTorch would write them to the device itself, and meta forgets them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        if func is Tensor.__getitem__ and isinstance(args[1], (list, tuple)):
            index = (args[1],) if isinstance(args[1], list) else args[1]
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in index))
        return func(*args, **kwargs)


def _plain(x: Any) -> Any:
    return x.inner if isinstance(x, Placed) else x


@contextmanager
def pretended() -> Iterator[None]:
    """Placed tensors can be computed with."""
    with pytest.MonkeyPatch.context() as patch, _Constructors(), _Operations():
        patch.setattr("torch.accelerator.synchronize", lambda: None)
        yield


def spread(model: nn.Module, places: Mapping[str, str]) -> nn.Module:
    """The model with its modules on pretended devices; as accelerate's hooks do, inputs are brought to each of them,
    and those of the whole model to the device of the first."""

    def bring(device: str):
        def one(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.to(device)
            return type(x)(map(one, x)) if isinstance(x, (tuple, list)) else x

        return lambda module, args, kwargs: (tuple(map(one, args)), {k: one(v) for k, v in kwargs.items()})

    for prefix, device in places.items():
        for module in model.get_submodule(prefix).modules():
            for tensors in (module._parameters, module._buffers):
                held = {name: t for name, t in tensors.items() if t is not None}
                tensors.update({name: Placed(t.data.clone(), torch.device(device)) for name, t in held.items()})
    for prefix, device in {**places, "": next(iter(places.values()))}.items():
        model.get_submodule(prefix).register_forward_pre_hook(bring(device), with_kwargs=True)
    return model
