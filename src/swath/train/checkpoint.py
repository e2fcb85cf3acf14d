"""Checkpoints: one flat mapping of named tensors plus a JSON record, published whole or not at all.

Everything is written into a hidden folder, flushed to the disk, listed with sha256 sums in `manifest.json`, and only
then renamed to `step-00000100`. A kill or a full disk in between leaves the last good checkpoint as it was.
Plain tensors go to safetensors, sharded ones (FSDP) to PyTorch's distributed checkpoint: no pickled objects of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swath.core.errors import SwathError, SwathWarning, UserError
from swath.train.optim import Optimizer

State = dict[str, Tensor]


def publish(folder: Path, step: int, state: State, record: Mapping[str, Any], keep: int = 2) -> Path:
    """Write a checkpoint and make it visible in one rename; older ones beyond `keep` go afterwards.

    With several ranks every one must call this; rank 0 writes the record and publishes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, tmp = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    lead = _rank() == 0
    if lead:
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        tmp.mkdir()
    _barrier()
    try:
        _write_tensors(tmp, state, lead)
        if lead:
            (tmp / "state.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
            files = sorted(p for p in tmp.rglob("*") if p.is_file())
            with ThreadPoolExecutor(1) as disk:  # sums are taken while the disk takes the files
                synced = disk.map(_sync, files)
                sums = {str(p.relative_to(tmp)): _sha256(p) for p in files}
                list(synced)
            (tmp / "manifest.json").write_text(json.dumps(sums, indent=1), encoding="utf-8")
            for p in (tmp / "manifest.json", tmp):
                _sync(p)
            if final.exists():
                shutil.rmtree(final)
            os.rename(tmp, final)
            _sync(folder)
    except Exception as why:
        if lead:
            shutil.rmtree(tmp, ignore_errors=True)
        good = latest(folder)
        raise SwathError(
            f"the checkpoint of step {step} could not be written: {why}",
            where=str(folder),
            remedy=f"make room and resume; the last good checkpoint is {good.name if good else 'none yet'}",
        ) from why
    if lead:
        for old in sorted(folder.glob("step-*"))[: -max(1, keep)]:
            shutil.rmtree(old, ignore_errors=True)
    _barrier()
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; a damaged one is named and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []:
        if (why := damage(path)) is None:
            return path
        warnings.warn(f"{path} is damaged ({why}); the one before it is used", SwathWarning, stacklevel=2)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        sums: dict[str, str] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as why:
        return f"manifest.json: {why}"
    for name, digest in sums.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != digest:
            return f"{name} does not have the sum of the manifest"
    return None


def record_of(path: Path) -> dict[str, Any]:
    """The JSON record of a checkpoint."""
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


@torch.no_grad()
def restore(path: Path, state: State) -> None:
    """Copy a checkpoint's tensors into `state`, in place; a missing, extra or differently shaped one is an error."""
    if (path / ".metadata").exists():
        import torch.distributed.checkpoint as dcp

        dcp.load(state, checkpoint_id=path, no_dist=_world() == 1)  # type: ignore[arg-type]
        return
    from safetensors.torch import load_file

    saved = load_file(path / "state.safetensors")
    missing, extra = sorted(set(state) - set(saved)), sorted(set(saved) - set(state))
    if missing or extra:
        raise UserError(
            f"the checkpoint holds other tensors: {len(missing)} missing {missing[:3]}, {len(extra)} extra {extra[:3]}",
            where=str(path),
            remedy="resume with the model and the settings that wrote it",
        )
    for name, tensor in state.items():
        if saved[name].shape != tensor.shape:
            raise UserError(f"'{name}' is {tuple(saved[name].shape)}, not {tuple(tensor.shape)}", where=str(path))
        if _sharded(tensor):
            from torch.distributed.tensor import distribute_tensor

            mesh, spots = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
            tensor.copy_(distribute_tensor(saved[name].to(tensor.device), mesh, spots))
        else:
            tensor.copy_(saved[name])


def compare(saved: Mapping[str, Any], mine: Mapping[str, Any], allow: tuple[str, ...], where: str) -> None:
    """Refuse to go on when config, code, data or environment differ, and show the difference."""
    rows: list[str] = []
    for section in sorted({*saved, *mine} - set(allow)):
        rows += list(_differences(section, saved.get(section), json.loads(json.dumps(mine.get(section), default=str))))
    if rows:
        raise UserError(
            "the run differs from the one that wrote the checkpoint:\n    " + "\n    ".join(rows[:20]),
            where=where,
            remedy="resume with the same settings, name the section in loop.allow, start in another folder, or --fresh",
        )


def _differences(path: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            yield from _differences(f"{path}.{key}", a.get(key), b.get(key))
    elif a != b:
        yield f"{path}: {a!r} in the checkpoint, {b!r} now"


def fingerprints(config: Any, data: Any) -> dict[str, Any]:
    """The sections that travel with a checkpoint: what was asked, of which data, by which code, where."""
    import platform

    import swath

    env = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    return {"config": config, "data": data, "code": _code(Path(swath.__file__).parent), "environment": env}


def _code(root: Path) -> dict[str, str]:
    """One hash for each room that decides the weights."""
    out: dict[str, str] = {}
    for room in ("core", "data", "models", "train", "objectives", "adapt"):
        total = hashlib.sha256()
        for p in sorted((root / room).rglob("*.py")):
            total.update(p.relative_to(root).as_posix().encode() + p.read_bytes())
        out[room] = total.hexdigest()[:16]
    return out


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types and bytes of tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{t.dtype}:{tuple(t.shape)}".encode())
        if t.numel():
            total.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def split_constant(module: nn.Module) -> tuple[State, State]:
    """The module's tensors: those to save, and those that its `constant` prefixes declare never to change."""
    prefixes: tuple[str, ...] = tuple(getattr(module, "constant", ()))
    every = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    fixed = {k: v for k, v in every.items() if any(k == p or k.startswith(p + ".") for p in prefixes)}
    return {k: v for k, v in every.items() if k not in fixed}, fixed


def optimizer_state(optimizer: Optimizer) -> State:
    """The optimiser's tensors by parameter name."""
    optimizer.prepare()
    out: State = {}
    for group in optimizer.param_groups:
        for name, p in zip(group["names"], group["params"], strict=True):
            out |= {f"{name}/{k}": v for k, v in optimizer.state[p].items()}
    return out


def _write_tensors(tmp: Path, state: State, lead: bool) -> None:
    if any(_sharded(t) for t in state.values()):
        import torch.distributed.checkpoint as dcp

        dcp.save(state, checkpoint_id=tmp, no_dist=_world() == 1)  # type: ignore[arg-type]
    elif lead:
        from safetensors.torch import save_file

        seen: set[int] = set()
        plain: State = {}
        for name, tensor in state.items():
            t = tensor.detach().cpu().contiguous()
            shared = t.numel() > 0 and t.data_ptr() in seen
            plain[name] = t.clone() if shared or t.data_ptr() == 0 else t
            seen.add(t.data_ptr())
        save_file(plain, tmp / "state.safetensors")


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _world() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _barrier() -> None:
    if _world() > 1:
        torch.distributed.barrier()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
