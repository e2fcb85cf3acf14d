"""A device that is not there: arithmetic on the CPU, and a GPU's rules for which tensors may meet.

A `Pretend` tensor says that it lives on `mps:0` and holds a CPU tensor. An operation that mixes it with CPU tensors of
one dimension or more is refused, as a GPU would refuse it; only `.cpu()`, `.to("cpu")`, `.item()` and `.tolist()` bring
values back. So a machine without a GPU finds tables built on the wrong device and numbers that never travelled. It
says nothing of kernels, speed or memory.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

THERE = torch.device("mps", 0)
_TRAVEL = {"aten._to_copy.default", "aten.copy_.default"}


class _Home(torch.autograd.Function):
    """The way back to the CPU, and of the gradient over there again."""

    @staticmethod
    def forward(ctx, x):
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        return Pretend(grad)


class Pretend(torch.Tensor):
    """A tensor over there."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )

    def __init__(self, held):
        self.held = held

    device = property(lambda self: THERE)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_):
        return f"Pretend({self.held})"

    def tolist(self):
        return self.held.tolist()

    def cpu(self, *_, **__):
        return _Home.apply(self)

    def to(self, *args, **kwargs):
        """`to` as on a tensor; the CPU is a journey."""
        places = [a for a in (*args, kwargs.get("device")) if isinstance(a, str | torch.device)]
        other = [a for a in args if isinstance(a, torch.Tensor)]
        away = any(torch.device(p).type == "cpu" for p in places) or any(not isinstance(o, Pretend) for o in other)
        rest = tuple(
            a.dtype if isinstance(a, torch.Tensor) else a for a in args if not isinstance(a, str | torch.device)
        )
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        moved = self.cpu() if away else self
        return torch.Tensor.to(moved, *rest, **kwargs) if rest or kwargs else moved

    def numpy(self, *_, **__):
        raise TypeError("a tensor over there has no numpy array: call .cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """One operation by the rules of two devices."""
    name = str(func)
    here, there = [], []

    def look(x):
        if isinstance(x, Pretend):
            there.append(x)
        elif isinstance(x, torch.Tensor) and x.dim() > 0:
            here.append(tuple(x.shape))

    tree_map(look, (args, kwargs))
    _refuse(name, args, here, there)
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    stays = torch.device(asked).type == THERE.type if asked is not None else bool(there)
    bare = tree_map(lambda x: x.held if isinstance(x, Pretend) else x, (args, kwargs))
    out = func(*bare[0], **bare[1])
    if func._schema.is_mutable and isinstance(args[0] if args else None, torch.Tensor) and "out" not in kwargs:
        return args[0] if isinstance(out, torch.Tensor) and out is bare[0][0] else _wrapped(out, stays)
    return _wrapped(out, stays)


def _wrapped(out, stays):
    return tree_map(lambda x: Pretend(x) if stays and type(x) is torch.Tensor else x, out)


def _refuse(name, args, here, there):
    if not here or not there or name in _TRAVEL:
        return
    if name.startswith(("aten.index.", "aten.index_put")) and isinstance(args[0], Pretend):
        return  # a GPU takes CPU indices for its own tensors
    if name == "aten.index_put.default":
        return  # the gradient of indexing, whose zeros C++ makes where it believes the tensor to be
    raise RuntimeError(f"{name}: tensors over there meet tensors of shape {here} on the CPU")


class _There(torch.autograd.Function):
    """The way over there, and of the gradient back."""

    @staticmethod
    def forward(ctx, x):
        return Pretend(x.detach().clone())

    @staticmethod
    def backward(ctx, grad):
        return grad.held


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What PyTorch does in C++, where a pretended tensor is taken for one on the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to and not isinstance(args[0], Pretend):
            places = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, str | torch.device)]
            like = [a for a in args[1:] if isinstance(a, torch.Tensor)]
            if any(torch.device(p).type == THERE.type for p in places) or any(isinstance(x, Pretend) for x in like):
                rest = [
                    a.dtype if isinstance(a, torch.Tensor) else a
                    for a in args[1:]
                    if not isinstance(a, str | torch.device)
                ]
                kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
                held = func(args[0], *rest, **kwargs) if rest or kwargs else args[0]
                return _There.apply(held)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Pretend):
            return Pretend(args[0].held.new_tensor(*args[1:], **{k: v for k, v in kwargs.items() if k != "device"}))
        if func is torch.nn.functional.one_hot and isinstance(args[0], Pretend):
            return Pretend(func(args[0].held, *args[1:], **kwargs))
        if func in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            kwargs = {k: v for k, v in kwargs.items() if k != "device"}
            made = func(*args, **kwargs)
            return made if isinstance(made, Pretend) else _There.apply(made)
        return func(*args, **kwargs)


def _is_there(device) -> bool:
    return device is not None and torch.device(device).type == THERE.type


@contextmanager
def elsewhere():
    """Inside, `device="mps"` makes and moves tensors over there."""
    with _Calls(), _Dispatch():
        yield


def carried(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its parameters and buffers over there."""
    seen = {}
    for part in module.modules():
        for key, value in list(part._parameters.items()):
            if value is not None:
                if value not in seen:
                    seen[value] = torch.nn.Parameter(Pretend(value.detach()), requires_grad=value.requires_grad)
                part._parameters[key] = seen[value]
        for key, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[key] = Pretend(value)
    return module
