"""The published Galileo-nano and Presto weights on real samples, read by Swath's own readers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from swath.core import Batch, Layer, UserError, collate
from swath.data.open import open_source
from swath.models import build_encoder
from swath.models.encoders.galileo import GalileoConfig
from swath.models.encoders.presto import PrestoConfig
from swath.models.inputs import Adaptation

L1C_AS_L2A = Adaptation(substitute={"sentinel2-l2a": "sentinel2-l1c"})


@pytest.fixture(scope="module")
def eurosat(shared, tmp_path_factory):
    """The hundred real chips in the published layout of one folder a class."""
    root = tmp_path_factory.mktemp("eurosat")
    for file in sorted((shared / "real/eurosat_ms_100/tif").glob("*.tif")):
        place = root / file.name.split("_")[0]
        place.mkdir(exist_ok=True)
        (place / file.name).symlink_to(file)
    source = open_source("eurosat", path=root)
    samples = [source.sample(i) for i in range(len(source))]
    return collate(samples), torch.cat([next(iter(s.labels.values())).value for s in samples])


def embed(encoder, batch, rows=10):
    with torch.no_grad():
        parts = [encoder(batch[i : i + rows]).pooled for i in range(0, len(batch), rows)]
    return torch.cat(parts).numpy().astype(np.float64)


def linear_probe(x, y):
    """Accuracy of logistic regression on standardised features, five stratified folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=1, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300))
    return float(cross_val_score(model, x, y, cv=folds).mean())


@pytest.mark.slow
def test_galileo_nano_on_eurosat(eurosat, shared):
    batch, y = eurosat
    config = GalileoConfig(size="nano", patch=8, month=5)
    path = shared / "oracles/galileo_nano/weights.safetensors"
    encoder = build_encoder(config, weights=path, adaptation=L1C_AS_L2A).eval()
    assert encoder.proof.complete and encoder.proof.fraction == 1.0 and len(encoder.proof.sha256) == 64
    x = embed(encoder, batch)
    assert x.shape == (100, 128)
    score = linear_probe(x, y)
    assert score > 0.75


def test_official_pickle_loads_like_the_safetensors(shared):
    """The released `encoder.pt` goes through torch's weights-only loader and gives the same model."""
    config = GalileoConfig(size="nano")
    a = build_encoder(config, weights=shared / "real/w_galileo_nano/encoder.pt")
    b = build_encoder(config, weights=shared / "oracles/galileo_nano/weights.safetensors")
    assert a.proof.fraction == 1.0
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


def test_embeddings_of_real_chips(eurosat, shared):
    """Four chips through readers and weights: finite, distinct, and moved by a swap of red and blue."""
    batch, _ = eurosat
    path = shared / "oracles/galileo_nano/weights.safetensors"
    encoder = build_encoder(GalileoConfig(size="nano", month=5), weights=path, adaptation=L1C_AS_L2A).eval()
    part = batch[:4]
    x = torch.from_numpy(embed(encoder, part))
    assert torch.isfinite(x).all() and torch.pdist(x).min() > 0
    layer = part.layers["sentinel2-l1c"]
    names = list(layer.sensor.names)
    order = [names.index(n) for n in names]
    order[names.index("red")], order[names.index("blue")] = names.index("blue"), names.index("red")
    swapped = Batch({layer.sensor.id: Layer(layer.sensor, layer.x[:, :, order], layer.valid, layer.times)}, part.where)
    assert torch.cosine_similarity(x, torch.from_numpy(embed(encoder, swapped))).max() < 0.999


def test_undated_layers_need_a_month(eurosat, shared):
    batch, _ = eurosat
    encoder = GalileoConfig(size="nano").build()
    encoder.adaptation = L1C_AS_L2A
    with pytest.raises(UserError, match="month"):
        encoder(batch[:1])


@pytest.mark.slow
def test_presto_on_eurosat_pixels(eurosat, shared):
    batch, y = eurosat
    path = shared / "real/w_presto/default_model.pt"
    encoder = build_encoder(PrestoConfig(month=5), weights=path, adaptation=L1C_AS_L2A).eval()
    assert encoder.proof.fraction == 1.0 and all(k.startswith("decoder.") for k in encoder.proof.dropped)
    small = {k: Layer(v.sensor, v.x[..., ::8, ::8], v.valid[..., ::8, ::8], v.times) for k, v in batch.layers.items()}
    x = embed(encoder, Batch(small, batch.where), rows=50)
    score = linear_probe(x, y)
    assert x.shape == (100, 128) and score > 0.5


def test_split_file_is_what_the_numbers_say(shared):
    split = json.loads(Path(shared / "real/eurosat_ms_100/split.json").read_text())
    assert sorted(len(v) for v in split.values()) == [20, 20, 60]
