"""Splits that stand in the data: folders and lists in any usual spelling, read alike by check and by the sources."""

import json

import pytest
from tests.data import chips

from swath.data.check import check
from swath.data.check.lists import read_splits
from swath.data.open import open_source
from swath.data.propose import Hints
from swath.data.start import start

PARTS = {"train": ["k00", "k01", "k02"], "val": ["k03"], "test": ["k04", "k05"]}
SAID = [(k, s) for s, keys in PARTS.items() for k in keys]
LISTED = {
    "split.json": json.dumps({s.title(): [f"{k}.tif" for k in v] for s, v in PARTS.items()}),
    "splits.json": json.dumps({"splits": {"train": PARTS["train"], "validate": PARTS["val"], "tst": PARTS["test"]}}),
    "split/by_key.json": json.dumps(dict(SAID)),
    "chips_split.json": json.dumps([{"id": k, "split": s} for k, s in SAID]),
    "splits.csv": "filename,subset\n" + "".join(f"images/{k}.tif,{s.upper()}\n" for k, s in SAID),
    "metadata.tsv": "id\tsplit\n" + "".join(f"{k}\t{s}\n" for k, s in SAID),
    "chips.geojson": json.dumps({"features": [{"properties": {"name": k, "split": s}} for k, s in SAID]}),
}


@pytest.mark.parametrize("name", [*LISTED, "txt", "folders"])
def test_check_and_source_read_the_same_splits(tmp_path, name):
    """The user's own split in any usual spelling: nobody deals the samples anew."""
    root = chips.folder(tmp_path / "d", names=chips.S2_NAMES)
    if name == "folders":
        for key, split in SAID:
            for kind in ("images", "masks"):
                place = root / {"train": "Train", "val": "Validation", "test": "TEST"}[split] / kind
                place.mkdir(parents=True, exist_ok=True)
                (root / kind / f"{key}.tif").rename(place / f"{key}.tif")
        (root / "images").rmdir()
        (root / "masks").rmdir()
    elif name == "txt":
        for split, keys in PARTS.items():
            (root / f"{split}_list.txt").write_text("\n".join(keys))
    else:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(LISTED[name])
    started = start(root, "segment", Hints("sentinel2-l2a", chips.S2), tmp_path / "o")
    source = open_source({"kind": "folder", "path": str(root), "card": str(started.card)})
    want = {s: sorted(v) for s, v in PARTS.items()}
    assert {s: sorted(source.index.items[i].key for i in v) for s, v in source.splits().items()} == want
    report = check(root, workers=1)
    assert dict(report.splits) == {s: len(v) for s, v in PARTS.items()} and report.ok


def test_words_that_are_no_splits_are_left(tmp_path):
    """A column called `set` of other words deals nothing; a list of other places neither."""
    root = chips.folder(tmp_path, names=chips.S2_NAMES)
    (root / "sites.csv").write_text("id,set\n" + "".join(f"{k},{'ab'[i % 2]}\n" for i, (k, _) in enumerate(SAID)))
    (root / "train.txt").write_text("\n".join(f"other{i}" for i in range(9)))
    assert not read_splits(root, ["sites.csv", "train.txt"], {k for k, _ in SAID})
