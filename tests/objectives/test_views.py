"""Views: dates without replacement, geometry that moves all layers together, physics, no bleeding of the invalid."""

from dataclasses import replace

import torch
from tiny_tokens import DW, S1, S2, make_batch

from swath.core import generator, per_sample
from swath.objectives.views import Views, pick_dates
from swath.objectives.views.views import warp


def draws(batch, seed=0):
    return per_sample(generator(seed), batch.where.key, "view")


def test_trap_14_dates_are_drawn_without_replacement():
    """SeCo's public code draws three dates with replacement: two views may be the same picture."""
    batch = make_batch(b=30, t=4)
    views = pick_dates(batch, draws(batch), 3)
    times = torch.stack([v.layers[S2.id].times[:, 0] for v in views], 1)
    assert all(len(row.unique()) == 3 for row in times)
    assert views[0].layers[S2.id].shape == (30, 1, 4, 16, 16)


def test_only_valid_dates_are_chosen():
    batch = make_batch(b=12, t=2, holes=True)
    views = pick_dates(batch, draws(batch), 2)
    for view in views:
        assert view.layers[S2.id].valid.flatten(1).any(1).all()


def test_no_change_is_no_change():
    batch = make_batch()
    same = Views(season=False, crop=(1, 1), turn=False, gain=0, haze=0).make(batch, draws(batch), 1)[0]
    for name, layer in batch.layers.items():
        torch.testing.assert_close(same.layers[name].x, layer.x, atol=1e-5, rtol=1e-5)
        assert torch.equal(same.layers[name].valid, layer.valid)


def test_turns_permute_pixels_exactly_and_layers_move_together():
    batch = make_batch(b=16)
    twin = replace(batch.layers[S1.id], x=batch.layers[S2.id].x[:, :, :2].clone())
    batch = replace(batch, layers={S2.id: batch.layers[S2.id], S1.id: twin})
    turned = Views(season=False, crop=(1, 1), gain=0, haze=0).make(batch, draws(batch), 1)[0]
    x = turned.layers[S2.id].x
    torch.testing.assert_close(x[:, :, :2], turned.layers[S1.id].x)
    kinds = set()
    for i in range(16):
        base = batch.layers[S2.id].x[i]
        options = [torch.rot90(f, k, (2, 3)) for f in (base, base.flip(3)) for k in range(4)]
        match = [j for j, o in enumerate(options) if torch.allclose(o, x[i], atol=1e-4)]
        assert match
        kinds.add(match[0])
    assert len(kinds) > 4


def test_what_is_invalid_does_not_bleed():
    batch = make_batch(b=2)
    layer = batch.layers[S2.id]
    valid = torch.ones_like(layer.valid)
    valid[..., :8] = False
    layer = replace(layer, valid=valid, x=torch.where(valid, torch.full_like(layer.x, 0.5), layer.x * 0 + 99))
    moved = warp(layer, torch.tensor([[0.6, 0, 0.1], [0, 0.6, 0.1]]).expand(2, 2, 3))
    assert moved.valid.any()
    assert not moved.valid.all()
    torch.testing.assert_close(
        moved.x[moved.valid.expand_as(moved.x)], torch.tensor(0.5).expand(int(moved.valid.sum()) * 4)
    )


def test_radiometry_is_physical():
    batch = make_batch(sensors=(S2, S1, DW))
    made = Views(season=False, crop=(1, 1), turn=False, gain=0.1, haze=0, drop_band=0).make(batch, draws(batch), 1)[0]
    ratio = made.layers[S2.id].x / batch.layers[S2.id].x
    assert 0.9 - 1e-3 <= float(ratio.min()) <= float(ratio.max()) <= 1.1 + 1e-3
    assert float(ratio[0].std()) < 1e-3, "one factor a sample and layer: spectra keep their shape"
    shift = made.layers[S1.id].x - batch.layers[S1.id].x
    assert float(shift.abs().max()) < 0.46
    torch.testing.assert_close(made.layers[DW.id].x, batch.layers[DW.id].x)


def test_a_sample_is_changed_alike_in_any_batch():
    batch = make_batch(b=4)
    views = Views(drop_band=0.3)
    whole = views.make(batch, draws(batch), 2)[1]
    part = views.make(batch[[2, 3]], draws(batch[[2, 3]]), 2)[1]
    torch.testing.assert_close(whole.layers[S2.id].x[2:], part.layers[S2.id].x)


def test_no_view_tells_where_it_is():
    """An encoder that reads coordinates could match two views of a place without looking at them."""
    batch = make_batch(b=3, t=3)
    assert torch.isfinite(batch.where.lonlat).all()
    for view in Views().make(batch, draws(batch), 2):
        assert torch.isnan(view.where.lonlat).all()
        assert torch.equal(view.where.key, batch.where.key)
    kept = Views(hide_place=False).make(batch, draws(batch), 1)[0]
    assert torch.equal(kept.where.lonlat, batch.where.lonlat)
