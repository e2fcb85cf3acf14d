"""References with a pretraining forward: our forward's prediction, given their mask, through the objectives' own loss
code, gives their loss to 1e-4. What each objective does with pixels and masks is then what the reference does."""

import json
from dataclasses import replace

import pytest
import torch

from swath.core import SENSORS
from swath.models.loading import open_state
from swath.models.zoo import run_oracle
from swath.objectives.decur import correlation, redundancy
from swath.objectives.losses.pixels import cosine_distance, masked_pixels, weigh
from swath.objectives.mpmae import Whole, aggregate, image_loss, pixel_loss
from swath.objectives.targets.pixels import Patches, cut, standardise

RTOL = 1e-4


@pytest.fixture
def oracle(shared, request):
    """Inputs, what the reference gave, what our forward gives."""
    place = shared / "oracles" / request.param
    theirs, ours = open_state(place / "outputs.safetensors"), run_oracle(place)[0]
    for name in theirs:
        if name.startswith(("pred", "mae.pred", "mae_indep.pred", "mae_spatial.pred", "mae.pixels", "simmim.rec")):
            torch.testing.assert_close(ours[name], theirs[name], rtol=RTOL, atol=3e-5)
    return open_state(place / "inputs.safetensors"), theirs, ours


def parts(x, patch, tub=1, classes=0, valid=None):
    """An image (B, C, H, W) or a series (B, T, C, H, W) as one sensor's patches."""
    x = x[:, None] if x.ndim == 4 else x
    b, t, _, h, w = x.shape
    grid, size = (t // tub, h // patch, w // patch), (tub, patch, patch)
    seen = torch.ones(b, t, 1, h, w) if valid is None else valid.float()
    value = cut(x.float(), size, grid)
    return Patches(SENSORS.get("naip"), torch.arange(value.shape[1]), value, cut(seen, size, grid) > 0.5, size, classes)


def close(ours, theirs):
    torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=RTOL, atol=1e-5)


@pytest.mark.parametrize("oracle", ["dofa_v1_mae"], indirect=True)
def test_mae_on_generated_bands(oracle):
    given, theirs, ours = oracle
    part = parts(given["x_s2_9"], 8)
    pred = ours["pred"].unflatten(2, (64, 9)).transpose(2, 3)  # their order is (pixel, band)
    hidden = theirs["mask"].bool()
    close(masked_pixels(pred, part, hidden).mean, theirs["loss_mae"])
    close(masked_pixels(pred, part, hidden, norm_pix=True).mean, theirs["loss_mae_norm_pix"])


@pytest.mark.parametrize("oracle", ["prithvi_v2", "prithvi_v2_tl"], indirect=True)
def test_mae_on_series(oracle):
    given, theirs, ours = oracle
    part = parts(given["x"].transpose(1, 2), 16)
    pred = parts(ours["mae.pred"].transpose(1, 2), 16).value
    hidden = theirs["mae.mask_tokens"].bool()
    close(masked_pixels(pred, part, hidden).mean, theirs["mae.loss"])
    if "mae.loss_norm_pix" in theirs:
        close(masked_pixels(pred, part, hidden, norm_pix=True).mean, theirs["mae.loss_norm_pix"])


@pytest.mark.parametrize("oracle", ["satmae_temporal"], indirect=True)
def test_mae_on_dates(oracle):
    """One image a date in one sequence; their predictions are (pixel, band)."""
    given, theirs, ours = oracle
    pred, hidden = ours["mae.pred"].unflatten(2, (64, 3)).transpose(2, 3), theirs["mae.mask"].bool()
    part = parts(given["x"], 8)
    close(masked_pixels(pred, part, hidden).mean, theirs["mae.loss"])
    close(masked_pixels(pred, part, hidden, norm_pix=True).mean, theirs["mae.loss_norm_pix"])


@pytest.mark.parametrize("kind", ["indep", "spatial"])
@pytest.mark.parametrize("oracle", ["satmae_group"], indirect=True)
def test_mae_on_groups_of_bands(oracle, kind):
    """Their groups are tokens of their own, standardised together; predictions are compared in the order they stand."""
    given, theirs, ours = oracle
    whole, pred = parts(given["x"], 8), ours[f"mae_{kind}.pred"].transpose(1, 2)
    for name, value in (("loss", whole.value), ("loss_norm_pix", standardise(whole))):
        each = {
            str(g): masked_pixels(
                pred[:, :, g], replace(whole, value=value[:, :, g]), theirs[f"mae_{kind}.mask"][:, i].bool()
            )
            for i, g in enumerate(([0, 1, 2, 6], [3, 4, 5, 7], [8, 9]))
        }
        close(weigh(each)[0], theirs[f"mae_{kind}.{name}"])


@pytest.mark.parametrize("oracle", ["clay_v15"], indirect=True)
def test_mae_by_absolute_errors(oracle):
    given, theirs, ours = oracle
    part = parts(given["sentinel-2-l2a.pixels"], 8)
    pred, hidden = ours["mae.pixels"].unflatten(2, (10, 64)), theirs["mae.masked_matrix"].bool()
    close(masked_pixels(pred, part, hidden, kind="l1").mean, theirs["mae.recon_loss_l1"])
    close(masked_pixels(pred, part, hidden, kind="l1", norm_pix=True).mean, theirs["mae.recon_loss_l1_normpix"])


def test_decur(shared):
    """Trap 7: they divide correlations by four processes' batches, whatever the number; ours by what is there."""
    place = shared / "oracles" / "decur_rn50"
    given, theirs = open_state(place / "inputs.safetensors"), open_state(place / "outputs.safetensors")
    facts = json.loads((place / "meta.json").read_text())["loss_args"]
    k, lam, z = facts["dim_common"], facts["lambd"], [given[f"z{i}"] for i in range(1, 5)]
    cross, one, two = (correlation(z[a], z[b]) / 4 for a, b in ((0, 1), (0, 2), (1, 3)))
    close(redundancy(cross[:k, :k], 1.0, lam), theirs["decur_loss.cross.0"])
    close(redundancy(cross[k:, k:], 0.0, lam), theirs["decur_loss.cross.3"])
    close(redundancy(one, 1.0, lam), theirs["decur_loss.single1.0"])
    close(redundancy(two, 1.0, lam), theirs["decur_loss.single2.0"])


@pytest.mark.parametrize("oracle", ["gfm_swinb"], indirect=True)
def test_simmim_and_distill(oracle):
    given, theirs, ours = oracle
    rec, hidden = ours["simmim.rec"], given["mask"].flatten(1).bool()
    paint = masked_pixels(parts(rec, 4).value, parts(given["x"], 4), hidden, kind="l1").mean
    taught = cosine_distance(ours["simmim.zs"], ours["teacher.zt"]).mean() - 1  # theirs is -cos, ours 1 - cos
    close(paint, theirs["loss_recon"])
    close(taught, theirs["loss_distill"])
    close(paint + taught, theirs["loss_total"])


@pytest.mark.parametrize("oracle", ["multimae"], indirect=True)
def test_multimae(oracle):
    given, theirs, ours = oracle
    rgb, depth, classes = (ours[f"mae.pred.{n}"] for n in ("rgb", "depth", "semseg"))
    hidden = {n: given[f"mask.{n}"].bool() for n in ("rgb", "depth", "semseg")}
    rgb_part = parts(given["rgb"], 16)
    close(masked_pixels(parts(rgb, 16).value, rgb_part, hidden["rgb"]).mean, theirs["loss.rgb_mse"])
    normed = masked_pixels(parts(rgb, 16).value, rgb_part, hidden["rgb"], norm_pix=True).mean
    close(normed, theirs["loss.rgb_mse_normpix"])
    close(masked_pixels(parts(depth, 16).value, parts(given["depth"], 16), hidden["depth"], kind="l1").mean,
          theirs["loss.depth_l1"])  # fmt: skip
    told = parts(given["semseg"][:, None], 4, classes=10)
    close(masked_pixels(parts(classes, 4).value, told, hidden["semseg"]).mean, theirs["loss.semseg_ce"])


@pytest.mark.parametrize("oracle", ["mpmae_fcmae_pretrain"], indirect=True)
def test_mpmae(oracle, shared):
    given, theirs, ours = oracle
    hidden, names = theirs["mask"].bool(), [k.removeprefix("loss.") for k in theirs if k.startswith("loss.")]
    each = {}
    for name in names:
        pred, target = ours[f"pred.{name}"], given[name]
        if name in ("biome", "eco_region"):
            each[name] = image_loss(pred, Whole(target.argmax(1), torch.ones(2, dtype=torch.bool), target.shape[1]))
        elif pred.ndim == 2:
            each[name] = image_loss(pred, Whole(torch.nan_to_num(target), ~target.isnan(), 0))
        else:
            classes = pred.shape[1] // 64 if name in ("dynamic_world", "esa_worldcover") else 0
            valid = (target >= 0) if classes else ~target.isnan().any(1, keepdim=True)
            part = parts(torch.where(valid, target, 0), 8, classes=classes, valid=valid[:, None])
            guess = pred.flatten(2).transpose(1, 2).unflatten(2, (64, -1)).transpose(2, 3)
            each[name] = pixel_loss(guess, part, hidden, norm_pix=name == "sentinel2")
        value, has = each[name]
        # theirs is one mean over the pixels (or numbers) of all samples; ours counts samples, so that ranks agree
        count = None
        if pred.ndim == 4 and classes:
            count = (part.valid[:, :, 0] & hidden[..., None]).sum((1, 2)).float()
        elif pred.ndim == 2:
            count = (~target.isnan()).sum(1).float()
        if count is not None:
            value = ((value * count).sum() / count.sum()).expand(2)
            each[name] = (value, torch.ones(2))
        close((value * has).sum() / has.sum().clamp_min(1), theirs[f"loss.{name}"])
    place = shared / "oracles" / "mpmae_fcmae_pretrain"
    order = list(json.loads((place / "meta.json").read_text())["config"]["modalities"])
    learnt = open_state(place / "weights.safetensors")["loss_fn.log_vars"]
    close(aggregate(each, tuple(order), learnt), theirs["loss"])
    close(aggregate(each, tuple(order), None), theirs["loss_unweighted"])
