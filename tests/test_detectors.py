"""Detectors as files: region networks export whole; what values choose is compared where rounding doesn't decide."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import prunus
from prunus.deploy import detectors
from prunus.deploy.capture import capture, chosen
from prunus.deploy.parity import ParityError, compare

torchvision = pytest.importorskip("torchvision")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

detection = torchvision.models.detection


def boxes_of_all_sizes(count: int, image: int) -> torch.Tensor:
    corners = torch.rand(count, 2) * image * 0.7
    return torch.cat([corners, corners + torch.rand(count, 2) ** 3 * image * 0.6 + 0.3], 1)


@pytest.mark.parametrize("levels", [1, 4])
def test_regions_are_pooled_from_their_levels(levels):
    torch.manual_seed(0)
    names = [str(n) for n in range(levels)]
    features = OrderedDict((n, torch.randn(2, 3, 128 >> i, 96 >> i)) for i, n in enumerate(names))
    boxes = [boxes_of_all_sizes(40, 400), boxes_of_all_sizes(25, 400)]
    pool = torchvision.ops.MultiScaleRoIAlign(names, 5, 2, canonical_scale=50)
    wanted = pool(features, boxes, [(512, 384)] * 2)
    assert levels == 1 or len(set(pool.map_levels(boxes).tolist())) == levels
    before = torchvision.ops.poolers._multiscale_roi_align
    with detectors.detectors_as_graphs():
        assert torchvision.ops.poolers._multiscale_roi_align is not before
        assert torch.equal(pool(features, boxes, [(512, 384)] * 2), wanted)
    assert torchvision.ops.poolers._multiscale_roi_align is before


def test_masks_are_pasted_as_torchvision_pastes_them():
    torch.manual_seed(0)
    masks = torch.rand(50, 1, 28, 28, dtype=torch.float64)
    boxes = boxes_of_all_sizes(50, 80).double().clamp(max=60)  # some narrower than a pixel
    boxes[:3] = torch.tensor([[0.0, 0, 70, 60], [-4, -6, 30, 20], [50, 40, 73, 66]])  # and some beyond the image
    paste = detection.roi_heads.paste_masks_in_image
    wanted = paste(masks, boxes, (60, 70))
    assert 0.02 < (wanted > 0).double().mean() < 0.8
    with detectors.detectors_as_graphs():
        found = detection.transform.paste_masks_in_image(masks, boxes, (60, 70))
        none = detection.transform.paste_masks_in_image(masks[:0], boxes[:0], (60, 70))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # places are in single precision
    assert none.shape == (0, 1, 60, 70)


def test_keypoints_are_found_where_torchvision_finds_them():
    torch.manual_seed(0)
    maps, boxes = torch.randn(30, 4, 14, 14), boxes_of_all_sizes(30, 90)
    places, heights = detection.roi_heads.heatmaps_to_keypoints(maps, boxes)
    with detectors.detectors_as_graphs():
        found = detection.roi_heads.heatmaps_to_keypoints(maps, boxes)
        none = detection.roi_heads.heatmaps_to_keypoints(maps[:0], boxes[:0])
    torch.testing.assert_close(found[0], places)
    torch.testing.assert_close(found[1], heights, rtol=0, atol=1e-4)
    assert none[0].shape == (0, 4, 3) and none[1].shape == (0, 4)


class Pyramid(nn.Module):
    """Two levels of features, at an eighth and a sixteenth of the image."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.stem, self.fine, self.coarse = (
            nn.Conv2d(3, 8, 5, 4, 2),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, 2, 1),
        )

    def forward(self, x):
        fine = torch.relu(self.fine(torch.relu(self.stem(x))))
        return OrderedDict([("0", fine), ("1", torch.relu(self.coarse(fine)))])


def region_network(kind: str) -> nn.Module:
    """Of small widths; its scores are spread, as those of a trained one are."""
    torch.manual_seed(0)
    pool = {size: torchvision.ops.MultiScaleRoIAlign(["0", "1"], size, 2, canonical_scale=64) for size in (3, 7)}
    given = {
        "rpn_anchor_generator": detection.rpn.AnchorGenerator(((16,), (48,)), ((0.5, 1.0, 2.0),) * 2),
        "box_roi_pool": pool[3],
        "box_head": detection.faster_rcnn.TwoMLPHead(8 * 9, 16),
        "box_predictor": detection.faster_rcnn.FastRCNNPredictor(16, 3),
        "min_size": 64,
        "max_size": 64,
        "box_detections_per_img": 60,
        "box_score_thresh": 0.4,
    }
    if kind == "MaskRCNN":
        given["mask_roi_pool"] = pool[7]
        given["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(8, (8,), 1)
        given["mask_predictor"] = detection.mask_rcnn.MaskRCNNPredictor(8, 8, 3)
    if kind == "KeypointRCNN":
        given["keypoint_roi_pool"] = pool[7]
        given["keypoint_head"] = detection.keypoint_rcnn.KeypointRCNNHeads(8, (8,))
        given["keypoint_predictor"] = detection.keypoint_rcnn.KeypointRCNNPredictor(8, 2)
    model = getattr(detection, kind)(Pyramid(), **given).eval()
    with torch.no_grad():
        for layer, factor in ((model.backbone, 3), (model.rpn.head, 20), (model.roi_heads.box_predictor, 10)):
            for parameter in layer.parameters():
                parameter.mul_(factor)
    return model


@pytest.mark.skipif(
    torch.__version__ < "2.14", reason="torch 2.6 can't cut a list of unknown length to 1000; none between was tried"
)
@pytest.mark.parametrize("kind, count", [("FasterRCNN", 2), ("MaskRCNN", 1), ("KeypointRCNN", 1)])
def test_region_networks_are_exported_whole(kind, count, tmp_path):
    model, images = region_network(kind), ([torch.rand(3, 64, 64) for _ in range(count)],)
    small = prunus.plan(prunus.trace(model, images), ratio=0.25).apply(model)
    told = prunus.export(small, images, tmp_path / "it.onnx", dynamic_batch=False)
    outputs = {"FasterRCNN": 3, "MaskRCNN": 4, "KeypointRCNN": 5}[kind]
    assert told.compared.chosen == tuple(range(0, outputs * count, outputs))
    assert told.compared.rows > 10 and told.compared.inputs == 3 and f"on 3 inputs ({told.compared.rows} " in str(told)
    session, same, counts = ort.InferenceSession(tmp_path / "it.onnx"), 0, set()
    for seed in range(6):
        drawn = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
        with torch.no_grad():
            wanted = [tensor for found in small(list(drawn)) for tensor in found.values()]
        names = [put.name for put in session.get_inputs()]
        found = session.run(None, dict(zip(names, drawn.numpy(), strict=True)))
        counts.add(len(wanted[0]))
        same += all(
            one.shape == other.shape and torch.allclose(one.double(), torch.from_numpy(other).double(), atol=1e-3)
            for one, other in zip(wanted, found, strict=True)
        )
    assert same >= 5 and len(counts) > 1, (same, counts)  # rounding may decide one


@pytest.mark.skipif(torch.__version__ < "2.14", reason="as above")
@pytest.mark.parametrize("suffix", [".pt2", ".xml"])
def test_other_formats_hold_a_region_network_too(suffix, tmp_path):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    images = ([torch.rand(3, 64, 64)],)
    told = prunus.export(region_network("FasterRCNN"), images, tmp_path / f"it{suffix}", dynamic_batch=False)
    assert told.compared.chosen == (0,) and told.compared.rows > 10


X = (torch.linspace(-1, 1, 24).view(1, 24),), {}


def torch_run(inputs):
    """The values beyond a threshold."""
    (x,), _ = inputs
    return x[x > 0.3]


def shifted_at_random(inputs):
    """The same, where inputs that aren't the example lie so close to the threshold that no one could tell."""
    (x,), _ = inputs
    return torch.cat([x[x > 0.3], x[:, :1].flatten()[: int(x.double().sum() * 1e9) % 2]])


def test_an_input_on_which_torch_changes_its_own_mind_is_left_out_and_another_drawn():
    told = compare(torch_run, torch_run, X, [1], 1e-4, chosen=(0,))
    assert (told.inputs, told.undecided, told.max_abs_error) == (3, 0, 0) and told.rows > 10
    told = compare(shifted_at_random, torch_run, X, [1], 1e-4, draws=4, chosen=(0,))
    assert told.inputs == 5 and 0 < told.undecided <= 12
    assert f", {told.undecided} left out on which rounding decides what torch gives)" in str(told)


def test_where_torch_is_sure_the_file_must_agree():
    def one_less(inputs):
        return torch_run(inputs)[1:]

    def one_other(inputs):
        return torch_run(inputs) + 0.01

    with pytest.raises(ParityError, match=r"other shapes, \[\[8\]\], than torch, \[\[9\]\]"):
        compare(torch_run, one_less, X, [1], 1e-4, chosen=(0,))
    assert compare(torch_run, one_other, X, [1], 1e-4, chosen=(0,)).max_abs_error == pytest.approx(0.01)


def test_an_unsure_model_excuses_no_file_and_no_other_kind_of_model():
    def never_right(inputs):
        return torch_run(inputs)[1:]

    with pytest.raises(ParityError, match="rounding alone decides which rows torch itself gives"):
        compare(shifted_at_random, never_right, X, [1], 1e-4, chosen=(0,))
    with pytest.raises(ParityError, match="other shapes"):  # nothing here says that values choose
        compare(shifted_at_random, never_right, X, [1], 1e-4)
    with pytest.raises(ParityError, match="no input gave a single row"):
        compare(lambda inputs: torch.zeros(0), lambda inputs: torch.zeros(0), X, [1], 1e-4, chosen=(0,))


def test_the_program_tells_which_outputs_values_choose():
    class Picks(nn.Module):
        def forward(self, x):
            kept = x.flatten() > 0
            return x * 2, x.flatten()[kept], kept.nonzero()

    assert chosen(capture(Picks(), X, False)) == (1,)  # the third has as many rows
    assert chosen(capture(nn.ReLU(), X, True)) == ()
