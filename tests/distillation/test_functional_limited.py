"""Losses of self-training and feature imitation: properties, degenerate batches.

Their numbers are in test_limited_golden.py. Pyramids are (N, C, H, W).
"""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from multas.distillation.functional.feature_imitation import (
    cell_distances,
    defeat_imitation,
    mse_imitation,
    pdf_imitation,
)
from multas.distillation.functional.soft_detection import soft_detection_loss
from multas.modeling.heads.dense_predictor import flatten_levels


def leaf(tensor):
    return tensor.clone().requires_grad_()


def test_flattened_levels_follow_the_order_of_the_anchors():
    num_anchors, channels = 3, 4
    levels = [torch.randn(2, num_anchors * channels, h, w) for h, w in ((3, 2), (1, 2))]
    flat = flatten_levels(levels, channels)
    assert flat.shape == (2, 3 * (6 + 2), channels)
    image, y, x, anchor, channel = 1, 2, 1, 2, 3
    place = (y * 2 + x) * num_anchors + anchor
    assert flat[image, place, channel] == levels[0][image, anchor * channels + channel, y, x]
    assert flat[image, 18 + 1 * 3, 0] == levels[1][image, 0, 0, 1]


def random_case(num_images=2, num_anchors=3, num_classes=4, channels=5, dtype=torch.float64):
    """(student features, teacher features, s logits, s deltas, t logits, t deltas), two levels."""
    sizes = [(3, 2), (2, 1)]
    cells = sum(h * w for h, w in sizes)
    rows = num_anchors * cells

    def features():
        return [torch.randn(num_images, channels, *size, dtype=dtype) for size in sizes]

    def predictions():
        return (
            torch.randn(num_images, rows, num_classes, dtype=dtype),
            torch.randn(num_images, rows, 4, dtype=dtype),
        )

    return features(), features(), *predictions(), *predictions()


def test_gradients_agree_with_finite_differences():
    student, teacher, logits, deltas, t_logits, t_deltas = random_case()
    mask = torch.rand(2, 8) > 0.5

    def soft(a, b):
        return tuple(soft_detection_loss(a, b, t_logits, t_deltas, class_weight=3.0).values())

    def mse(*levels):
        return mse_imitation(levels, teacher)

    def defeat(*levels):
        return tuple(defeat_imitation(levels, teacher, mask, divisor=2.0).values())

    def pdf_features(*levels):
        terms = pdf_imitation(levels, teacher, logits, deltas, t_logits, t_deltas)
        return terms["feature"], terms["box_reg"]

    assert gradcheck(soft, [leaf(logits), leaf(deltas)])
    levels = [leaf(level) for level in student]
    for loss in (mse, defeat, pdf_features):
        assert gradcheck(loss, levels)
    assert gradcheck(
        lambda b: pdf_imitation(student, teacher, logits, b, t_logits, t_deltas)["box_reg"],
        [leaf(deltas)],
    )


def test_pdf_holds_the_disagreement_constant():
    """The gradient of the classification term is D (q - p) / count, without a term from D."""
    student, teacher, logits, deltas, t_logits, t_deltas = random_case()
    logits = leaf(logits)
    terms = pdf_imitation(student, teacher, logits, deltas, t_logits, t_deltas)
    p, q = t_logits.sigmoid(), logits.sigmoid().detach()
    expected = (p - q) ** 2 * (q - p) / (p > 0.5).sum()
    (gradient,) = torch.autograd.grad(terms["cls"], logits)
    torch.testing.assert_close(gradient, expected)
    assert not terms["feature"].requires_grad


def all_terms(student, teacher, logits, deltas, t_logits, t_deltas, mask):
    """Every loss here as one dict."""
    return {
        "mse": mse_imitation(student, teacher),
        **pdf_imitation(student, teacher, logits, deltas, t_logits, t_deltas),
        **defeat_imitation(student, teacher, mask),
        **{
            f"soft_{key}": value
            for key, value in soft_detection_loss(logits, deltas, t_logits, t_deltas).items()
        },
    }


def test_order_of_the_images_does_not_matter():
    case = (*random_case(num_images=4), torch.rand(4, 8) > 0.5)
    order = torch.tensor([2, 0, 3, 1])
    moved = [[x[order] for x in item] if isinstance(item, list) else item[order] for item in case]
    for key, value in all_terms(*case).items():
        torch.testing.assert_close(all_terms(*moved)[key], value)


def test_order_of_the_cells_does_not_matter():
    student, teacher, *predictions = random_case()
    mask = torch.rand(2, 8) > 0.5
    order = torch.tensor([1, 0])  # mirror: swap the two columns of the first level

    def mirror(dense):
        """Rows of 3 anchors for the 3 x 2 cells of the first level, then those of the second."""
        first, second = dense[:, :18], dense[:, 18:]
        return torch.cat([first.unflatten(1, (3, 2, 3))[:, :, order].flatten(1, 3), second], 1)

    mirrored = mask.clone()
    mirrored[:, :6] = mask[:, :6].unflatten(1, (3, 2))[..., order].flatten(1)
    moved = all_terms(
        [student[0][..., order], student[1]],
        [teacher[0][..., order], teacher[1]],
        *(mirror(dense) for dense in predictions),
        mirrored,
    )
    for key, value in all_terms(student, teacher, *predictions, mask).items():
        torch.testing.assert_close(moved[key], value)


def test_levels_count_as_one_long_map():
    student, teacher, *predictions = random_case()
    mask = torch.rand(2, 8) > 0.5
    joined = [
        [torch.cat([level.flatten(2) for level in levels], 2)[..., None]]
        for levels in (student, teacher)
    ]
    expected = all_terms(*joined, *predictions, mask)
    for key, value in all_terms(student, teacher, *predictions, mask).items():
        torch.testing.assert_close(value, expected[key])


@given(st.floats(0.01, 100))
def test_feature_terms_grow_with_the_square_of_the_scale(scale):
    student, teacher, *predictions = random_case()
    mask = torch.rand(2, 8) > 0.5
    before = all_terms(student, teacher, *predictions, mask)
    scaled = ([scale * level for level in levels] for levels in (student, teacher))
    after = all_terms(*scaled, *predictions, mask)
    for key in ("mse", "feature", "foreground", "background"):
        torch.testing.assert_close(after[key], scale**2 * before[key])


def test_imitation_is_zero_at_equality_and_soft_detection_has_its_minimum_there():
    student, _, logits, deltas, *_ = random_case()
    mask = torch.rand(2, 8) > 0.5
    same = all_terms(student, student, logits, deltas, logits, deltas, mask)
    # What remains is the entropy of the teacher's scores.
    assert same.pop("soft_cls") > 0
    for key, value in same.items():
        assert value.item() == 0, key


@given(st.floats(0, 5), st.floats(0, 5))
def test_imitation_grows_with_the_distance(a, b):
    near, far = sorted((a, b))
    _, teacher, logits, deltas, t_logits, t_deltas = random_case()
    mask = torch.rand(2, 8) > 0.5
    steps = [torch.randn_like(level) for level in teacher]

    def at(distance):
        moved = [t + distance * step for t, step in zip(teacher, steps, strict=True)]
        offsets = t_deltas + distance * deltas
        return all_terms(moved, teacher, logits, offsets, t_logits, t_deltas, mask)

    closer, farther = at(near), at(far)
    for key in ("mse", "feature", "box_reg", "foreground", "background", "soft_box_reg"):
        assert closer[key] <= farther[key] + 1e-12, key


def test_pdf_without_a_confident_teacher_is_finite():
    student, teacher, logits, deltas, t_logits, t_deltas = random_case()
    logits, timid = leaf(logits), -t_logits.abs() - 1
    terms = pdf_imitation(student, teacher, logits, deltas, timid, t_deltas)
    p, q = timid.sigmoid(), logits.detach().sigmoid()
    entropy = -(p * q.log() + (1 - p) * (1 - q).log())
    torch.testing.assert_close(terms["cls"].detach(), ((p - q) ** 2 * entropy).sum())
    terms["cls"].backward()
    assert logits.grad.isfinite().all()


@given(score=st.floats(0.05, 0.95))
def test_pdf_divides_its_classification_term_by_the_positives_of_the_teacher(score):
    inputs = random_case()
    count = int((inputs[4].sigmoid() > score).sum())
    everything = pdf_imitation(*inputs, positive_score=0.0)
    terms = pdf_imitation(*inputs, positive_score=score)
    expected = everything["cls"] * inputs[4].numel() / max(count, 1)
    torch.testing.assert_close(terms["cls"], expected)
    for term in ("feature", "box_reg"):
        assert terms[term] == everything[term]


def test_pdf_without_disagreement_imitates_no_feature():
    student, teacher, logits, deltas, *_ = random_case()
    levels = [leaf(level) for level in student]
    logits = leaf(logits)
    terms = pdf_imitation(levels, teacher, logits, deltas, logits.detach(), deltas)
    assert [value.item() for value in terms.values()] == [0, 0, 0]
    sum(terms.values()).backward()
    assert logits.grad.eq(0).all()
    assert all(level.grad.eq(0).all() for level in levels)


def test_empty_batches_give_zero():
    case = (*random_case(num_images=0), torch.zeros(0, 8, dtype=torch.bool))
    for key, value in all_terms(*case).items():
        assert value.item() == 0, key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_computed_in_float32(dtype):
    case = random_case(dtype=dtype)
    mask = torch.rand(2, 8) > 0.5
    wide = [[x.float() for x in item] if isinstance(item, list) else item.float() for item in case]
    expected = all_terms(*wide, mask)
    for key, value in all_terms(*case, mask).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=0)


def test_the_teacher_gets_no_gradient():
    student, teacher, logits, deltas, t_logits, t_deltas = random_case()
    teacher = [leaf(level) for level in teacher]
    t_logits, t_deltas = leaf(t_logits), leaf(t_deltas)
    student = [leaf(level) for level in student]
    mask = torch.rand(2, 8) > 0.5
    terms = all_terms(student, teacher, leaf(logits), leaf(deltas), t_logits, t_deltas, mask)
    sum(terms.values()).backward()
    assert all(x.grad is None for x in (*teacher, t_logits, t_deltas))
    assert all(level.grad.abs().sum() > 0 for level in student)


def test_anchor_weights_scale_the_soft_terms_per_anchor():
    _, _, logits, deltas, t_logits, t_deltas = random_case()
    soft = partial(soft_detection_loss, logits, deltas, t_logits, t_deltas)
    plain, half = soft(), soft(anchor_weights=torch.full((2, 24), 0.5, dtype=torch.float64))
    only = torch.zeros(2, 24, dtype=torch.float64)
    only[1, 7] = 48
    single = soft(anchor_weights=only)
    alone = soft_detection_loss(*(x[1:, 7:8] for x in (logits, deltas, t_logits, t_deltas)))
    for key in plain:
        torch.testing.assert_close(half[key], plain[key] / 2)
        torch.testing.assert_close(single[key], alone[key])


def test_defeat_weights_and_mask_separate_the_regions():
    student, teacher, *_ = random_case()
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 3] = True
    terms = defeat_imitation(student, teacher, mask, foreground_weight=3.0, background_weight=0.5)
    distances = cell_distances(student, teacher)
    torch.testing.assert_close(terms["foreground"], 3 * distances[0, 3] / 2 / 2)
    torch.testing.assert_close(terms["background"], 0.5 * distances[~mask].sum() / 30 / 2)


def test_wrong_shapes_are_named():
    student, teacher, logits, deltas, t_logits, t_deltas = random_case()
    with pytest.raises(ValueError, match="class logits differ"):
        soft_detection_loss(logits[..., :3], deltas, t_logits, t_deltas)
    with pytest.raises(ValueError, match="levels"):
        mse_imitation(student, teacher[:1])
    with pytest.raises(ValueError, match="level 1 differ"):
        mse_imitation(student, [teacher[0], teacher[1][:, :4]])
    with pytest.raises(ValueError, match="cannot be divided among the 6 cells"):
        pdf_imitation(
            student[:1], teacher[:1], *(x[:, :20] for x in (logits, deltas, t_logits, t_deltas))
        )
