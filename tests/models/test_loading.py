"""The load proof: what is matched, missing, unexpected, reshaped, dropped; and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from swath.core import SENSORS, UserError
from swath.models import build_encoder, encoder_config
from swath.models.layers.adapting import inflate, nearest_bands, position_table, subset
from swath.models.loading import Layout, fetch, flatten, load_state, load_weights, open_state


def net():
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})


def test_a_full_load_is_proven():
    given = net()
    proof = load_state(net(), given.state_dict())
    assert proof.complete and proof.fraction == 1.0 and proof.matched == 4


def test_missing_and_unexpected_are_refused_and_nothing_moves():
    own = net()
    before = {k: v.clone() for k, v in own.state_dict().items()}
    state = net().state_dict()
    state["c.weight"] = state.pop("a.weight")
    with pytest.raises(UserError, match=r"1 keys missing \(a.weight\), 1 unexpected \(c.weight\)"):
        load_state(own, state)
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())


def test_zero_matching_keys_never_pass_silently():
    with pytest.raises(UserError, match=r"0\.0%"):
        load_state(net(), {f"module.{k}": v for k, v in net().state_dict().items()})


def test_exceptions_are_listed_and_recorded():
    state = net().state_dict()
    state["c.weight"] = state.pop("a.weight")
    proof = load_state(net(), state, exceptions=("a.*", "c.*"))
    assert proof.complete and proof.fraction < 1.0 and sorted(proof.excepted) == ["a.weight", "c.weight"]


def test_layout_unwraps_strips_and_drops():
    inner = {f"module.x.{k}": v for k, v in net().state_dict().items()} | {"module.x.head.weight": torch.zeros(3)}
    layout = Layout(inside=("state_dict",), strip=("module.x.",), drop=("head.*",))
    proof = load_state(net(), {"epoch": 3, "state_dict": inner}, layout=layout)
    assert proof.complete and proof.dropped == {"module.x.head.weight": "matches head.*"}


def test_a_wrong_shape_is_refused_without_a_rule_and_recorded_with_one():
    state = net().state_dict()
    state["a.weight"] = torch.ones(2, 6)
    with pytest.raises(UserError, match=r"\(2, 6\) in the file and \(2, 3\)"):
        load_state(net(), state)
    own = net()
    proof = load_state(own, state, reshape={"a.weight": inflate})
    assert "inflation" in proof.reshaped["a.weight"]
    assert torch.allclose(own["a"].weight, torch.full((2, 3), 2.0))


def test_subset_and_nearest_wavelength_pick_kernels():
    kernel = torch.arange(12.0).view(1, 12, 1, 1)
    own = torch.zeros(1, 3, 1, 1)
    assert subset([3, 2, 1])(own, kernel).flatten().tolist() == [3.0, 2.0, 1.0]
    s2, landsat = SENSORS.get("sentinel2-l2a"), SENSORS.get("landsat8-sr").select(["red", "green", "blue"])
    assert nearest_bands(s2, landsat)(own, kernel).flatten().tolist() == [3.0, 2.0, 1.0]
    with pytest.raises(UserError, match="no kernel within"):
        nearest_bands(s2, SENSORS.get("sentinel1-grd"))


def test_position_table_is_resized():
    table = torch.randn(1, 17, 8)
    assert torch.equal(position_table()(torch.zeros(1, 17, 8), table), table)
    bigger = position_table()(torch.zeros(1, 65, 8), table)
    assert bigger.shape == (1, 65, 8) and torch.equal(bigger[:, 0], table[:, 0])
    assert position_table()(torch.zeros(1, 18, 8), table) is None


def test_sha256_is_checked(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in net().state_dict().items()}, file)
    assert len(load_weights(net(), file).sha256) == 64
    with pytest.raises(UserError, match="sha256"):
        load_weights(net(), file, sha256="0" * 64)


def test_pickled_code_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('it ran')",))

    file = tmp_path / "w.pt"
    torch.save({"x": Trap()}, file)
    with pytest.raises(UserError, match="weights-only"):
        open_state(file)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such weights file"):
        build_encoder("croma/tiny", weights=tmp_path / "none.safetensors")


def test_hub_needs_a_revision_and_says_when_offline(monkeypatch):
    with pytest.raises(UserError, match="pinned revision"):
        fetch("a/b", "c.safetensors", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cache"):
        fetch("swath-tests/none", "c.safetensors", "0" * 40)


def test_flatten_keeps_only_tensors():
    assert list(flatten({"a": {"b": torch.ones(1), "n": 3}, "s": "text"})) == ["a.b"]


def test_unknown_names_say_the_nearest():
    with pytest.raises(UserError, match="croma"):
        encoder_config("cromma")
    with pytest.raises(UserError, match="base"):
        encoder_config("croma/bas")


def test_a_flat_prithvi_file_is_sorted_into_encoder_and_decoder():
    """Version 1's file may lack the prefixes; some decoder parameters do not begin with `decoder`."""
    from swath.models.encoders.prithvi import PrithviConfig

    config = PrithviConfig(size="tiny", decoder=True)
    state = config.build().state_dict()
    flat = {k.removeprefix("encoder.").removeprefix("decoder."): v for k, v in state.items()}
    own = config.build()
    proof = load_state(own, flat, layout=config.layout())
    assert proof.complete and proof.fraction == 1.0
    assert all(torch.equal(v, state[k]) for k, v in own.state_dict().items())
    assert load_state(config.build(), state, layout=config.layout()).complete


@pytest.mark.parametrize("wrap", ["module.base_encoder.", "teacher.module.backbone.", "teacher.backbone.", ""])
def test_every_known_wrapping_of_ssl4eo_loads(wrap):
    config = encoder_config("ssl4eo-vit/tiny")
    state = {wrap + k: v for k, v in config.build().state_dict().items()}
    state |= {"module.momentum_encoder.cls_token": torch.zeros(1), "module.predictor.0.weight": torch.zeros(1)}
    state |= {wrap + "head.0.weight": torch.zeros(1)}
    assert load_state(config.build(), state, layout=config.layout()).fraction == 1.0
