"""Polygons of a class raster, streamed: strips of rows in, finished regions out, equal to those of the whole raster.

Regions are 4-connected. A pixel's side that looks at another value is boundary, walked with the region on the right
hand: top sides eastward, right sides southward, bottom sides westward, left sides northward. A run is a longest
straight piece. Along its own direction the k-th start belongs to the k-th end, so runs need no search; where a run
ends, its last pixel and the two beyond say which run comes next. That is a permutation, and its cycles are the rings.
Where a region touches itself at a corner, the runs that leave it are exchanged, which splits the ring there into simple
ones. A link from right sides to the left side of their row of pixels ties holes to their region. Pixels and sums follow
from the vertical runs alone (Green's theorem on the integral image). What is not closed yet waits for the next strip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, depth_first_order

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
TOP, RIGHT, BOTTOM, LEFT = range(4)
NONE = -1
EMPTY: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Regions:
    """Finished regions: polygons in pixel coordinates (x = column, y = row), value, pixels, sum of the weights."""

    polygons: NDArray[Any]
    value: Ints
    pixels: Ints
    total: Ints

    def __len__(self) -> int:
        return len(self.value)


@dataclass(eq=False)
class _Nodes:
    """Runs whose regions are not finished.

    `row, col` is the corner where a run starts; `cut` marks starts that are no corner but the seam of two strips.
    `then` is the run that follows, NONE while it lies in the next strip, where `goal` (its kind) and `goal_col` name
    it. `link` is another run of the same region; `pixels` and `total` are the run's share of the region's sums.
    """

    row: Ints
    col: Ints
    value: Ints
    cut: Bools
    then: Ints
    goal: Ints
    goal_col: Ints
    link: Ints
    pixels: Ints
    total: Ints

    @classmethod
    def join(cls, parts: Sequence[_Nodes]) -> _Nodes:
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__dataclass_fields__))

    def take(self, keep: NDArray[Any]) -> _Nodes:
        return _Nodes(*(getattr(self, f)[keep] for f in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.row)


class _Strip:
    """Sides and runs of one strip. Keys count horizontal runs row by row and vertical ones column by column."""

    def __init__(self, padded: NDArray[Any]) -> None:
        self.padded = padded
        v = padded[1:-1, 1:-1]
        self.shape: tuple[int, int] = (v.shape[0], v.shape[1])
        live = v >= 0
        top, right = (v != padded[:-2, 1:-1]) & live, (v != padded[1:-1, 2:]) & live
        bottom, left = (v != padded[2:, 1:-1]) & live, (v != padded[1:-1, :-2]) & live
        self.side: tuple[Bools, ...] = (top, right, bottom, left)
        t_west, t_east = _ends(top, left, right, 1)
        b_west, b_east = _ends(bottom, left, right, 1)
        r_north, r_south = _ends(right, top, bottom, 0)
        l_north, l_south = _ends(left, top, bottom, 0)
        flat = np.flatnonzero
        self.first: tuple[Ints, ...] = (flat(t_west), flat(r_north.T), flat(b_east), flat(l_south.T))
        self.last: tuple[Ints, ...] = (flat(t_east), flat(r_south.T), flat(b_west), flat(l_north.T))
        self.base: Ints = np.concatenate([[0], np.cumsum([len(f) for f in self.first])])

    def rowcol(self, kind: int, key: Ints) -> tuple[Ints, Ints]:
        """Row and column of a pixel given by its key."""
        h, w = self.shape
        if kind in (TOP, BOTTOM):
            return np.divmod(key, w)
        col, row = np.divmod(key, h)
        return row, col

    def _key(self, kind: int, row: Ints, col: Ints) -> Ints:
        h, w = self.shape
        return row * w + col if kind in (TOP, BOTTOM) else col * h + row

    def starting(self, kind: int, row: Ints, col: Ints) -> Ints:
        """Runs of a kind by their first pixel."""
        return np.searchsorted(self.first[kind], self._key(kind, row, col)) + self.base[kind]

    def ending(self, kind: int, row: Ints, col: Ints) -> Ints:
        """Runs of a kind by their last pixel."""
        return np.searchsorted(self.last[kind], self._key(kind, row, col)) + self.base[kind]


def _ends(side: Bools, low: Bools, high: Bools, axis: int) -> tuple[Bools, Bools]:
    """Where runs of sides begin and end along an axis: at a turn, or where the next side is none (or out of sight)."""
    before, after = np.zeros_like(side), np.zeros_like(side)
    if axis:
        before[:, 1:], after[:, :-1] = side[:, :-1], side[:, 1:]
    else:
        before[1:], after[:-1] = side[:-1], side[1:]
    return side & (low | ~before), side & (high | ~after)


class Polygoniser:
    """Feed strips of rows from north to south; each call gives the regions that are finished by then."""

    def __init__(self, width: int, nodata: int | None = None) -> None:
        self.width, self.nodata = width, nodata
        self.row = 0
        self.above: NDArray[Any] | None = None
        self.held: tuple[NDArray[Any], NDArray[Any] | None] | None = None
        self.nodes: _Nodes | None = None
        self.touches: Ints = np.zeros((2, 0), dtype=np.int64)
        self.tail: dict[str, tuple[Ints, Ints]] = {}

    def feed(self, strip: NDArray[Any], weight: NDArray[Any] | None = None) -> Regions:
        """A strip (H, W) of values from 0, with integer weights to be summed per region."""
        values = strip.astype(np.int16 if strip.dtype == np.uint8 else np.int32)
        if self.nodata is not None:
            values[strip == self.nodata] = NONE
        out = self._advance(values[0])
        self.held = (values, weight)
        return out

    def finish(self) -> Regions:
        """The regions that reach the last row."""
        out = self._advance(None)
        self.held = None
        return out

    def _advance(self, below: NDArray[Any] | None) -> Regions:
        if self.held is None:
            return Regions(np.zeros(0, dtype=object), EMPTY, EMPTY, EMPTY)
        values, weight = self.held
        padded = np.full((values.shape[0] + 2, self.width + 2), NONE, dtype=values.dtype)
        padded[1:-1, 1:-1] = values
        for row, edge in ((0, self.above), (-1, below)):
            if edge is not None:
                padded[row, 1:-1] = edge
        self._take(_Strip(padded), weight)
        self.above = values[-1]
        self.row += values.shape[0]
        return self._flush()

    def _take(self, strip: _Strip, weight: NDArray[Any] | None) -> None:
        """Add the runs of a strip to those that wait, and tie both together."""
        offset = 0 if self.nodes is None else len(self.nodes)
        fresh = _Nodes.join([self._runs(strip, kind, weight, offset) for kind in range(4)])
        old = self.nodes
        if old is not None:
            for kind in (TOP, RIGHT):
                waiting = np.flatnonzero((old.then == NONE) & (old.goal == kind))
                col = old.goal_col[waiting]
                old.then[waiting] = strip.starting(kind, np.zeros_like(col), col) + offset
            fresh = _Nodes.join([old, fresh])
        self.nodes = fresh
        self._touch(strip, offset)
        last = strip.shape[0] - 1
        self.tail = {}
        for name, kind, keys in (
            ("first", BOTTOM, strip.first), ("first", LEFT, strip.first), ("last", BOTTOM, strip.last),
            ("last", RIGHT, strip.last),
        ):  # fmt: skip
            row, col = strip.rowcol(kind, keys[kind])
            there = np.flatnonzero(row == last)
            self.tail[f"{name}{kind}"] = (col[there], there + strip.base[kind] + offset)

    def _found(self, name: str, col: Ints) -> Ints:
        """Runs of the strip above by the column of their pixel in its last row; NONE where there is none any more."""
        cols, ids = self.tail.get(name, (EMPTY, EMPTY))
        at = np.searchsorted(cols, col)
        inside = at < len(cols)
        out = np.full(len(col), NONE)
        hit = inside.copy()
        hit[inside] = cols[at[inside]] == col[inside]
        out[hit] = ids[at[hit]]
        return out

    def _runs(self, strip: _Strip, kind: int, weight: NDArray[Any] | None, offset: int) -> _Nodes:
        (r0, c0), (r1, c1) = strip.rowcol(kind, strip.first[kind]), strip.rowcol(kind, strip.last[kind])
        n, (h, _) = len(r0), strip.shape
        then, goal, goal_col = self._next(strip, kind, r1, c1, offset)
        cut = np.zeros(n, dtype=np.bool_)
        link = np.full(n, NONE)
        pixels = np.zeros(n, dtype=np.int64)
        total = pixels
        if kind in (RIGHT, LEFT):
            v = strip.padded
            edge, beyond, step = (0, r0, 1) if kind == RIGHT else (h - 1, r0 + 2, -1)
            at = np.flatnonzero(r0 == edge)
            row, col = beyond[at], c0[at] + 1
            cut[at] = (v[row, col] == v[r0[at] + 1, col]) & (v[row, col] != v[row, col + step])
            low, high = np.minimum(r0, r1), np.maximum(r0, r1) + 1
            x = c0 + (kind == RIGHT)
            sign = 1 if kind == RIGHT else -1
            pixels = sign * (high - low) * x
            total = pixels if weight is None else sign * _sums(weight, low, high, x)
        if kind == RIGHT:
            top, _, bottom, left = strip.side
            some = np.flatnonzero(~top[r0, c0] & ~bottom[r1, c1])
            if len(some):
                rows, cols = np.divmod(_left_sides(left, r0[some], c0[some]), strip.shape[1])
                link[some] = strip.starting(LEFT, rows, cols) + offset
        row = self.row + r0 + (kind in (BOTTOM, LEFT))
        col = c0 + (kind in (RIGHT, BOTTOM))
        value = strip.padded[r0 + 1, c0 + 1].astype(np.int64)
        return _Nodes(row, col, value, cut, then, goal, goal_col, link, pixels, total)

    def _next(self, strip: _Strip, kind: int, row: Ints, col: Ints, offset: int) -> tuple[Ints, Ints, Ints]:
        """The run after the last pixel of each: around a convex corner, on across a seam, or into a reflex one."""
        n, h = len(row), strip.shape[0]
        ahead = (RIGHT, BOTTOM, LEFT, TOP)[kind]
        reflex = (LEFT, TOP, RIGHT, BOTTOM)[kind]
        dr, dc = ((-1, 1), (1, 1), (1, -1), (-1, -1))[kind]
        convex = strip.side[ahead][row, col]
        then, goal, goal_col = np.full(n, NONE), np.full(n, NONE), np.full(n, NONE)
        here = np.flatnonzero(convex)
        then[here] = strip.starting(ahead, row[here], col[here]) + offset
        rest = np.flatnonzero(~convex)
        wanted = np.full(len(rest), reflex)
        to_row, to_col = row[rest] + dr, col[rest] + dc
        if kind in (RIGHT, LEFT):
            v = strip.padded
            y, x, out = to_row + 1, col[rest] + 1, 1 if kind == RIGHT else -1
            straight = v[y, x] != v[y, x + out]
            wanted[straight], to_col[straight] = kind, col[rest][straight]
        for k in sorted({reflex, kind}):
            inside = np.flatnonzero((wanted == k) & (to_row >= 0) & (to_row < h))
            then[rest[inside]] = strip.starting(k, to_row[inside], to_col[inside]) + offset
            up = np.flatnonzero((wanted == k) & (to_row < 0))
            then[rest[up]] = self._found(f"first{k}", to_col[up])
        down = to_row >= h
        goal[rest[down]], goal_col[rest[down]] = wanted[down], to_col[down]
        return then, goal, goal_col

    def _touch(self, strip: _Strip, offset: int) -> None:
        """Corners where two pixels of one value meet only at their tips, as the pairs of runs that end there."""
        v = strip.padded[:-1]
        nw, ne, sw, se = v[:-1, :-1], v[:-1, 1:], v[1:, :-1], v[1:, 1:]
        other = (nw != ne) & (nw != sw)
        pairs: list[Ints] = [self.touches]
        for same, a, b, east in (
            ((nw == se) & other & (nw >= 0), RIGHT, LEFT, 0),
            ((ne == sw) & (ne != nw) & (ne != se) & (ne >= 0), BOTTOM, TOP, 1),
        ):
            row, col = np.divmod(np.flatnonzero(same), same.shape[1])
            upper, lower = col - 1 + east, col - east
            inner = np.flatnonzero(row > 0)
            one = np.full(len(row), NONE)
            one[inner] = strip.ending(a, row[inner] - 1, upper[inner]) + offset
            seam = np.flatnonzero(row == 0)
            one[seam] = self._found(f"last{a}", upper[seam])
            both = np.stack([one, strip.ending(b, row, lower) + offset])
            pairs.append(both[:, one != NONE])
        self.touches = np.concatenate(pairs, axis=1)

    def _flush(self) -> Regions:
        nodes = self.nodes
        if nodes is None or not len(nodes):
            return Regions(np.zeros(0, dtype=object), EMPTY, EMPTY, EMPTY)
        region = _components(nodes.then, nodes.link)
        waiting = np.zeros(int(region.max()) + 1, dtype=np.bool_)
        waiting[region[nodes.then == NONE]] = True
        closed = ~waiting[region]
        a, b = self.touches
        swap = closed[a] & (region[a] == region[b])
        x, y = a[swap], b[swap]
        nodes.then[x], nodes.then[y] = nodes.then[y], nodes.then[x]
        done, keep = np.flatnonzero(closed), np.flatnonzero(~closed)
        place = np.full(len(nodes), NONE)
        place[done] = np.arange(len(done))
        finished = nodes.take(done)
        finished.then = place[finished.then]
        out = _regions(finished, region[done])
        place[:] = NONE
        place[keep] = np.arange(len(keep))
        self.nodes = rest = nodes.take(keep)
        rest.then = np.where(rest.then == NONE, NONE, place[rest.then])
        rest.link = np.where(rest.link == NONE, NONE, place[rest.link])
        still = ~(closed[a] | closed[b])
        self.touches = place[self.touches[:, still]]
        self.tail = {k: (cols, place[ids]) for k, (cols, ids) in self.tail.items()}
        return out


def _sums(weight: NDArray[Any], low: Ints, high: Ints, x: Ints) -> Ints:
    """Sum of the weights west of column x over rows low..high, exact in int64."""
    h, w = weight.shape
    table = np.zeros((h + 1, w + 1), dtype=np.int64)
    np.cumsum(weight, axis=1, out=table[1:, 1:])
    np.cumsum(table, axis=0, out=table)
    return table[high, x] - table[low, x]


def _left_sides(left: Bools, row: Ints, col: Ints) -> Ints:
    """For each pixel the left side nearest at or west of it in its row, as a flat index."""
    flat = np.flatnonzero(left)
    return flat[np.searchsorted(flat, row * left.shape[1] + col, side="right") - 1]


def _components(then: Ints, link: Ints | None = None) -> Ints:
    """Which runs hang together."""
    n = len(then)
    own = np.arange(n)
    target = np.where(then == NONE, own, then)
    if link is None:
        indptr, indices = np.arange(n + 1), target
    else:
        extra = link != NONE
        indptr = np.concatenate([[0], np.cumsum(1 + extra)])
        indices = np.empty(int(indptr[-1]), dtype=np.int64)
        indices[indptr[:-1]] = target
        indices[indptr[:-1][extra] + 1] = link[extra]
    graph = csr_matrix((np.ones(len(indices), dtype=np.int8), indices, indptr), shape=(n, n))
    return connected_components(graph, directed=True, connection="weak")[1].astype(np.int64)


def _order(then: Ints, ring: Ints) -> Ints:
    """Runs ring after ring, along their way: the rings are opened, strung on one thread, and the thread is walked."""
    n = len(then)
    heads = np.empty(int(ring.max()) + 1, dtype=np.int64)
    heads[ring[::-1]] = np.arange(n)[::-1]
    before = np.empty(n, dtype=np.int64)
    before[then] = np.arange(n)
    thread = then.copy()
    tails = before[heads]
    thread[tails[:-1]] = heads[1:]
    thread[tails[-1]] = tails[-1]
    graph = csr_matrix((np.ones(n, dtype=np.int8), thread, np.arange(n + 1)), shape=(n, n))
    return depth_first_order(graph, int(heads[0]), directed=True, return_predecessors=False).astype(np.int64)


def _regions(nodes: _Nodes, region: Ints) -> Regions:
    """Closed runs as polygons: one outer ring each, its holes after it."""
    if not len(nodes):
        return Regions(np.zeros(0, dtype=object), EMPTY, EMPTY, EMPTY)
    ring = _components(nodes.then)
    order = _order(nodes.then, ring)
    ring = ring[order]
    firsts = np.flatnonzero(np.diff(ring, prepend=NONE))
    area = np.add.reduceat(nodes.pixels[order], firsts)
    ids, owner = np.unique(region[order][firsts], return_inverse=True)
    corner = ~nodes.cut[order]
    lengths = np.add.reduceat(corner.astype(np.int64), firsts)
    xy = np.stack([nodes.col[order][corner], nodes.row[order][corner]], 1).astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    sequence = np.lexsort((area <= 0, owner))
    size = lengths[sequence] + 1
    ring_at = np.concatenate([[0], np.cumsum(size)])
    index = np.arange(ring_at[-1]) + np.repeat(starts[sequence] - ring_at[:-1], size)
    index[ring_at[1:] - 1] = starts[sequence]
    polygon_at = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(ids)))])
    shapes = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy[index], (ring_at, polygon_at))
    outer = firsts[sequence[polygon_at[:-1]]]
    total = np.add.reduceat(nodes.total[order], firsts)
    pixels = _sum_by(area, owner, len(ids))
    return Regions(shapes, nodes.value[order][outer], pixels, _sum_by(total, owner, len(ids)))


def _sum_by(values: Ints, owner: Ints, n: int) -> Ints:
    out = np.zeros(n, dtype=np.int64)
    np.add.at(out, owner, values)
    return out


def polygonise(strips: Iterable[NDArray[Any]], nodata: int | None = None) -> Iterator[Regions]:
    """Regions of a raster given as strips of rows."""
    maker: Polygoniser | None = None
    for strip in strips:
        maker = maker or Polygoniser(strip.shape[1], nodata)
        yield maker.feed(strip)
    if maker is not None:
        yield maker.finish()
