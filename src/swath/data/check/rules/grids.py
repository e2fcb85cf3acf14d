"""Size, crs and transform: a label against its image, and each file against the rest of its group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member, majority
from swath.data.check.survey import Check, Survey

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Pairs = list[tuple[Member, Facts]]


def _run(survey: Survey) -> Iterator[Finding]:
    masks = {m.key: f for pairs in survey.masks().values() for m, f in pairs}
    for _, pairs in survey.images().items():
        both = [(f, masks[m.key]) for m, f in pairs if m.key in masks]
        if not both:
            continue
        ratio = majority(_ratio(a, b) for a, b in both)[0]
        usual = majority(_kind(a) for a, _ in both)[0], majority(_kind(b) for _, b in both)[0]
        for image, mask in both:
            odd = _kind(image) != usual[0] and _kind(mask) == usual[1]  # then the image is the one to look at
            yield from _against_mask(image, mask, ratio, odd)
    for groups in (survey.images(), survey.masks()):
        for group, pairs in groups.items():
            yield from _against_rest(group, pairs)


def _kind(f: Facts) -> tuple[object, ...]:
    assert f.profile is not None
    return (f.profile.shape, f.profile.crs)


def _ratio(image: Facts, mask: Facts) -> tuple[float, float]:
    assert image.profile and mask.profile
    return (image.profile.shape[0] / mask.profile.shape[0], image.profile.shape[1] / mask.profile.shape[1])


def _size(f: Facts) -> str:
    assert f.profile is not None
    return f"{f.profile.shape[0]} x {f.profile.shape[1]}"


def _against_mask(image: Facts, mask: Facts, usual: object, odd: bool) -> Iterator[Finding]:
    a, b = image.profile, mask.profile
    assert a is not None and b is not None
    one, other, role = (image, mask, "label") if odd else (mask, image, "image")
    if _ratio(image, mask) != (1.0, 1.0) and (_ratio(image, mask) != usual or not _same_extent(image, mask)):
        yield Finding(
            "grids", "error", one.file, f"size {_size(one)} does not match its {role} {other.file}, {_size(other)}",
            value=_size(one), remedy="cut image and label to the same window",
        )  # fmt: skip
    if a.crs != b.crs and (a.crs and b.crs):
        yield Finding(
            "grids", "error", one.file, f"crs {_crs(one)} does not match its {role} {other.file}, {_crs(other)}",
            value=_crs(one), remedy="reproject one of them (nearest for classes)",
        )  # fmt: skip
        return
    if _placed(image) != _placed(mask) and b.dtype != "int64":
        bare, other = (mask, image) if _placed(image) else (image, mask)
        yield Finding(
            "grids", "warning", bare.file, f"has no georeference, but its partner {other.file} has one", value="none",
            remedy="write crs and transform, or rely on equal sizes alone",
        )  # fmt: skip
    elif _placed(image) and _placed(mask) and not _aligned(image, mask):
        dx, dy = _shift(image, mask)
        yield Finding(
            "grids", "error", mask.file,
            f"transform is not aligned with its image {image.file}: the origin is {dx:.2f} columns and {dy:.2f} rows "
            f"away, pixel sides {_side(mask):g} and {_side(image):g}", value=round(math.hypot(dx, dy), 4),
            remedy="write both on one grid; a shifted label teaches the wrong pixels",
        )  # fmt: skip


def _crs(f: Facts) -> str:
    assert f.profile is not None
    return f.profile.crs if len(f.profile.crs) < 40 else f.profile.crs.split('"')[1] if f.profile.crs else "none"


def _placed(f: Facts) -> bool:
    assert f.profile is not None
    return bool(f.profile.crs) or tuple(f.affine) != IDENTITY


def _side(f: Facts) -> float:
    return math.hypot(f.affine[0], f.affine[3])


def _shift(image: Facts, mask: Facts) -> tuple[float, float]:
    return (mask.affine[2] - image.affine[2]) / _side(image), (mask.affine[5] - image.affine[5]) / _side(image)


def _same_extent(image: Facts, mask: Facts) -> bool:
    if not (_placed(image) and _placed(mask)):
        return not _placed(image) and not _placed(mask)
    ends = [(f.affine[2] + f.affine[0] * f.profile.shape[1], f.affine[5] + f.affine[4] * f.profile.shape[0])
            for f in (image, mask) if f.profile]  # fmt: skip
    slack = 0.51 * max(_side(image), _side(mask))
    dx, dy = _shift(image, mask)
    near = max(abs(dx), abs(dy)) * _side(image) <= slack
    return near and all(abs(p - q) <= slack for p, q in zip(*ends, strict=True))


def _aligned(image: Facts, mask: Facts) -> bool:
    if _ratio(image, mask) != (1.0, 1.0):
        return True
    dx, dy = _shift(image, mask)
    turned = any(abs(image.affine[i] - mask.affine[i]) > 1e-3 * _side(image) for i in (0, 1, 3, 4))
    return max(abs(dx), abs(dy)) <= 0.05 and not turned


def _against_rest(group: str, pairs: Pairs) -> Iterator[Finding]:
    shape, n, total = majority(f.profile.shape for _, f in pairs if f.profile)
    if n < total and 2 * n > total:
        for _, f in pairs:
            if f.profile and f.profile.shape != shape:
                yield Finding(
                    "grids", "error", f.file,
                    f"size {_size(f)} differs from {n} of {total} files in {group}/: {shape[0]} x {shape[1]}",  # type: ignore[index]
                    value=_size(f), remedy="cut it to the size of the others: unequal sizes cannot share a batch",
                )  # fmt: skip
    elif 2 * n <= total:
        sizes = Counter(f.profile.shape for _, f in pairs if f.profile)
        yield Finding(
            "grids", "warning", group, f"files come in {len(sizes)} sizes, the most common is {n} of {total}",
            value=len(sizes), remedy="read by windows (a source of large rasters), or cut chips of one size",
        )  # fmt: skip
    yield from _crs_rest(group, pairs)
    yield from _gsd_rest(group, pairs)


def _family(crs: str) -> str:
    """UTM zones count as one: a data set may cross them."""
    if crs.startswith(("EPSG:326", "EPSG:327")):
        return "UTM"
    return crs


def _crs_rest(group: str, pairs: Pairs) -> Iterator[Finding]:
    usual, n, total = majority(_family(f.profile.crs) if _placed(f) else "none" for _, f in pairs if f.profile)
    if n == total or 2 * n <= total:
        return
    for _, f in pairs:
        own = _family(f.profile.crs) if f.profile and _placed(f) else "none"
        if own != usual:
            yield Finding(
                "grids", "error" if total - n <= max(1, 0.2 * total) else "warning", f.file,
                f"crs {_crs(f) or 'none'} differs from {n} of {total} files in {group}/: {usual}",
                value=_crs(f) or "none", remedy="reproject it, or write its crs",
            )  # fmt: skip


def _gsd_rest(group: str, pairs: Pairs) -> Iterator[Finding]:
    placed = [(f, _side(f)) for _, f in pairs if f.profile and _placed(f)]
    if len(placed) < 3:
        return
    degrees = {f.file for f, side in placed if f.profile and (f.profile.crs == "EPSG:4326" or side < 0.02)}
    for part in ([p for p in placed if p[0].file in degrees], [p for p in placed if p[0].file not in degrees]):
        if len(part) < 3:
            continue
        usual, n, total = majority(float(f"{side:.3g}") for _, side in part)
        slack = 0.2 if part[0][0].file in degrees else 0.01
        for f, side in part:
            if 2 * n > total and abs(side / float(str(usual)) - 1) > slack:
                yield Finding(
                    "grids", "error", f.file,
                    f"the transform's pixel side {side:g} differs from {n} of {total} files in {group}/: {usual:g}",
                    value=side, remedy="resample it to the gsd of the others, or declare a layer of its own",
                )  # fmt: skip


MEMBER = Check("size, crs, transform and alignment", _run)
