"""The paths of Chennupati et al. (BMVC 2021), built from config entries."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golden_cases import assert_gradient, assert_value, gradient
from multas.distillation.functional.attention import attention_transfer
from multas.distillation.functional.overhaul import ofd_margin
from multas.distillation.paths import features, fkd, localization, logits, overhaul
from multas.distillation.paths.base import PATH_REGISTRY, Targets
from path_building import build_path

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"
MODULES = (logits, features, overhaul, fkd, localization)
# Options of the authors' code where it differs from the papers' texts.
CODE = {
    "AttentionTransfer": {"REDUCTION": "mean"},
    "SoftTarget": {},
    "L2Logits": {},
    "NeuronSelectivity": {"KERNEL": "channel_gram"},
    "FeatureMap": {},
    "SoftmaxRegression": {"CLASSIFIER": "fc"},
}
GOLDEN_NAMES = {
    "attention_transfer": "AttentionTransfer",
    "soft_target": "SoftTarget",
    "logits": "L2Logits",
    "nst": "NeuronSelectivity",
    "feature_map": "FeatureMap",
    "softmax_regression": "SoftmaxRegression",
}


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    texts = {k: v.tolist() for k, v in arrays.items() if v.dtype.kind == "U"}
    numbers = {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items() if k not in texts}
    return numbers | texts


def no_targets():
    return Targets(image_sizes=[], padded_size=(0, 0), instances=[])


def copy_into(parameter, value):
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def fill_adapter(adapter, conv, gamma, beta):
    projection, norm = adapter.project
    copy_into(projection.weight, conv)
    copy_into(norm.weight, gamma)
    copy_into(norm.bias, beta)


def maps(*shapes, grad=False):
    return tuple(torch.randn(shape, requires_grad=grad) for shape in shapes)


@pytest.mark.parametrize(
    "name",
    [
        "AttentionTransfer",
        "SoftTarget",
        "L2Logits",
        "NeuronSelectivity",
        "FeatureMap",
        "SoftmaxRegression",
        "Overhaul",
        "FKD",
        "LocalizationDistillation",
    ],
)
def test_each_method_is_one_registered_class_with_its_own_name(name):
    cls = PATH_REGISTRY.get(name)
    assert cls.__module__ in {module.__name__ for module in MODULES}
    assert cls.default_name and cls.__doc__


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("step_*.npz")))
def test_raw_losses_of_the_authors_training_step(case):
    golden = load(case)
    stages = range(4)
    students = [golden[f"in_fs{i}"] for i in stages]
    teachers = [golden[f"in_ft{i}"] for i in stages]

    def scores(side, last):
        return last.mean((2, 3)) @ golden[f"in_w_head_{side}"].T + golden[f"in_b_head_{side}"]

    teacher_model = nn.Module()
    classes, width = golden["in_w_head_t"].shape
    teacher_model.fc = nn.Linear(width, classes).double()
    copy_into(teacher_model.fc.weight, golden["in_w_head_t"])
    copy_into(teacher_model.fc.bias, golden["in_b_head_t"])
    taps = {"SoftTarget": "logits", "L2Logits": "logits", "SoftmaxRegression": "cross"}
    values = {
        "maps": (students, teachers),
        "logits": ([scores("s", students[3])], [scores("t", teachers[3])]),
        "cross": ([students[3]], [scores("t", teachers[3])]),
    }
    raw = {}
    for name in golden["in_path_names"]:
        short = name.partition(":")[0].removeprefix("loss_kd_")
        if short in raw:
            continue
        kind = GOLDEN_NAMES[short]
        student, teacher = values[taps.get(kind, "maps")]
        path = build_path(kind, student, teacher, teacher_model, **CODE[kind]).double()
        adapters = getattr(path, "adapters", [])
        first = 0
        if kind == "SoftmaxRegression":
            adapters, first = [path.adapter], 3
        for i, adapter in enumerate(adapters, start=first):
            if hasattr(adapter, "project"):
                keys = ("conv", "bn_gamma", "bn_beta")
                fill_adapter(adapter, *(golden[f"in_w_adapt_{key}{i}"] for key in keys))
        losses = path(tuple(student), tuple(teacher), no_targets())
        assert list(losses) == list(path.labels)
        raw[short] = list(losses.values())
    expected = golden["out_path_losses_weighted"] / golden["in_path_loss_weights"]
    actual = []
    for name in golden["in_path_names"]:
        short, _, layer = name.partition(":")
        terms = raw[short.removeprefix("loss_kd_")]
        actual.append(terms[int(layer)] if layer else torch.stack(terms).sum())
    torch.testing.assert_close(torch.stack(actual).detach(), expected, rtol=1e-9, atol=0)


def test_text_of_the_paper_is_the_default():
    student, teacher = maps((2, 4, 6, 6)), maps((2, 8, 6, 6))
    path = build_path("AttentionTransfer", student, teacher)
    loss = path(student, teacher, no_targets())["0"]
    torch.testing.assert_close(loss, attention_transfer(*student, *teacher, reduction="sum"))
    assert not list(path.parameters())


def test_maps_of_another_size_are_resized_only_where_positions_are_compared():
    student, teacher = maps((2, 4, 3, 3)), maps((2, 4, 6, 6))
    for kind in ("AttentionTransfer", "NeuronSelectivity", "FeatureMap", "FKD"):
        (loss,) = build_path(kind, student, teacher)(student, teacher, no_targets()).values()
        assert loss.isfinite() and loss > 0
    path = build_path("FeatureMap", student, teacher)
    enlarged = tuple(F.interpolate(t, scale_factor=2, mode="nearest") for t in teacher)
    values = [path(student, t, no_targets())["0"] for t in (teacher, enlarged)]
    torch.testing.assert_close(*values)
    segmentation = maps((2, 5, 4, 4)), maps((2, 5, 8, 8))
    assert build_path("SoftTarget", *segmentation)(*segmentation, no_targets())["0"] > 0


def test_equal_widths_need_no_adapter_unless_always():
    student, teacher = maps((2, 4, 6, 6)), maps((2, 4, 6, 6))
    assert not list(build_path("FeatureMap", student, teacher).parameters())
    always = build_path("FeatureMap", student, teacher, ADAPTER="conv_bn_always")
    assert len(list(always.parameters())) == 3


# FKD


def fkd_parameters(level, name):
    """The parameters of a level by what the reference calls them, e.g. "w0_snl_theta"."""
    layers = {
        "adapt": level.adapt,
        "channel": level.channel,
        "spatial": level.spatial,
        "nladapt": level.adapt_relation,
    }
    parameters = {}
    for prefix, block in (("snl", level.student_relation), ("tnl", level.teacher_relation)):
        layers |= {f"{prefix}_{part}": getattr(block, part) for part in ("g", "theta", "phi")}
        parameters[f"w{name}_{prefix}_out"] = block.out.weight
        parameters[f"w{name}_{prefix}_bn_gamma"] = block.bn.weight
        parameters[f"w{name}_{prefix}_bn_beta"] = block.bn.bias
    for key, layer in layers.items():
        parameters |= {f"w{name}_{key}": layer.weight, f"b{name}_{key}": layer.bias}
    return parameters


@pytest.mark.parametrize("case", ["fkd_onestage", "fkd_twostage_nopool", "fkd_twostage_pool4"])
def test_fkd_path_equals_public_code(case):
    golden = load(case)
    one_stage = case == "fkd_onestage"
    names = [str(i) for i in range(int(golden["in_num_levels"]))] if one_stage else [""]
    student = tuple(golden[f"in_fs{name}"].requires_grad_() for name in names)
    teacher = tuple(golden[f"in_ft{name}"] for name in names)
    inner = golden[f"in_w{names[0]}_snl_theta"].shape[0]
    path = build_path(
        "FKD",
        student,
        teacher,
        TEMPERATURE=float(golden["in_temperature"]),
        WEIGHTS=golden["in_weights"].tolist(),
        CHANNEL_MASK=one_stage,
        SOFTMAX_OF_SUM=False,
        ABSOLUTE=False,
        REDUCTION=student[0].shape[1] // inner,
        POOL=golden["in_pool"].flatten().tolist(),
    ).double()
    parameters = {}
    for level, name in zip(path.levels, names, strict=True):
        parameters |= fkd_parameters(level, name)
    for key, parameter in parameters.items():
        copy_into(parameter, golden[f"in_{key}"])
    losses = path(student, teacher, no_targets())
    assert list(losses) == list(path.labels)
    total = torch.stack(list(losses.values())).sum()
    assert_value(total, golden["out_loss"], 1e-9)
    inputs = {f"fs{name}": s for name, s in zip(names, student, strict=True)}
    for key, leaf in (inputs | parameters).items():
        if f"grad_{key}" in golden:  # not of the layers of the one-stage setting
            expected = golden[f"grad_{key}"].reshape(leaf.shape)
            assert_gradient(gradient(total, leaf), expected, 1e-7)
    compared = {f"grad_{key}" for key in inputs | parameters}
    assert compared.issuperset(key for key in golden if key.startswith("grad_"))


def test_fkd_works_between_widths_and_starts_from_identity_relations():
    student, teacher = (
        maps((2, 4, 6, 6), (2, 8, 1, 1), grad=True),
        maps((2, 6, 6, 6), (2, 16, 1, 1)),
    )
    path = build_path("FKD", student, teacher, POOL=2)
    losses = path(student, teacher, no_targets())
    torch.stack(list(losses.values())).sum().backward()
    assert all(s.grad.isfinite().all() and s.grad.abs().max() > 0 for s in student)
    block = path.levels[0].student_relation
    torch.testing.assert_close(block(student[0]), student[0])


def test_a_normalised_fkd_is_the_same_for_a_repeated_batch_and_near_the_code_at_its_scale():
    student, teacher = maps((2, 4, 6, 6)), maps((2, 4, 6, 6))
    path = build_path("FKD", student, teacher, NORMALISE=True).double()
    one, two = (
        path([x.double().repeat(n, 1, 1, 1) for x in student],
             [x.double().repeat(n, 1, 1, 1) for x in teacher], no_targets())["0"]
        for n in (1, 2)
    )  # fmt: skip
    torch.testing.assert_close(one, two)
    entries = torch.tensor([2 * 256 * 100 * 168, 2 * 256, 2 * 100 * 168, 2 * 256 * 100 * 168])
    usual = build_path("FKD", student, teacher).weights
    torch.testing.assert_close(path.weights, usual * entries.double().sqrt(), rtol=0.03, atol=0)


# OFD


def teacher_with_norm(gamma, beta, mean=0.1):
    teacher = nn.Module()
    teacher.conv = nn.Conv2d(3, len(gamma), 1)
    teacher.conv.norm = nn.BatchNorm2d(len(gamma))
    copy_into(teacher.conv.norm.weight, gamma)
    copy_into(teacher.conv.norm.bias, beta)
    teacher.conv.norm.running_mean.fill_(mean)
    return teacher


@pytest.mark.parametrize("norm", ["conv", "conv.norm"])
def test_overhaul_path_golden(norm):
    golden = load("ofd_full")
    teacher_model = teacher_with_norm(
        golden["in_teacher_bn_gamma"], golden["in_teacher_bn_beta"]
    ).double()
    student, teacher = (golden["in_fs"].requires_grad_(),), (golden["in_ft_preact"],)
    weight = float(golden["in_loss_weight"])
    options = {"NORMS": [norm], "LAYER_WEIGHTS": [weight]}
    path = build_path("Overhaul", student, teacher, teacher_model, **options).double()
    keys = ("in_w_conv", "in_w_bn_gamma", "in_w_bn_beta")
    fill_adapter(path.adapters[0], *(golden[key] for key in keys))
    loss = path(student, teacher, no_targets())["0"]
    assert_value(loss, golden["out_loss"], 1e-6)
    adapted = path.adapters[0](student[0])
    torch.testing.assert_close(adapted, golden["out_fs_adapted"], rtol=1e-10, atol=1e-12)
    projection, scaling = path.adapters[0].project
    leaves = (student[0], projection.weight, scaling.weight, scaling.bias)
    for key, leaf in zip(("in_fs", *keys), leaves, strict=True):
        expected = golden[key.replace("in_", "grad_")]
        assert_gradient(gradient(loss, leaf), expected.reshape(leaf.shape), 1e-6)


def test_overhaul_halves_the_weight_towards_shallow_layers():
    student, teacher = maps((2, 5, 4, 4)) * 2, maps((2, 5, 4, 4)) * 2
    model = teacher_with_norm(torch.ones(5), torch.zeros(5))
    options = {"NORMS": ["conv"] * 2, "ADAPTER": "none"}
    losses = build_path("Overhaul", student, teacher, model, **options)(
        student, teacher, no_targets()
    )
    torch.testing.assert_close(2 * losses["0"], losses["1"])
    path = build_path("Overhaul", student, teacher, model, LAYER_WEIGHTS=[3.0, 1.0], **options)
    losses = path(student, teacher, no_targets())
    torch.testing.assert_close(losses["0"], 3 * losses["1"])


def test_overhaul_margins_are_those_of_the_teacher_as_it_is():
    student, teacher = maps((2, 3, 4, 4)), maps((2, 5, 4, 4))
    model = teacher_with_norm(torch.ones(5), torch.zeros(5))
    path = build_path("Overhaul", student, teacher, model, NORMS=["conv"])
    before = path(student, teacher, no_targets())["0"]
    copy_into(model.conv.norm.bias, torch.full((5,), -2.0))
    torch.testing.assert_close(path.margins()[0], ofd_margin(*model.conv.norm.parameters()).float())
    assert path(student, teacher, no_targets())["0"] != before


def test_overhaul_says_when_margins_cannot_be_known(caplog):
    student, teacher = maps((2, 3, 4, 4)), maps((2, 5, 4, 4))
    gamma = torch.ones(5)
    with caplog.at_level(logging.WARNING):
        path = build_path(
            "Overhaul", student, teacher, teacher_with_norm(gamma, gamma, 0.0), NORMS=["conv"]
        )
    assert "folded" in caplog.text
    torch.testing.assert_close(path.margins()[0], ofd_margin(gamma, gamma).float())
    for names, message in ((["cnv"], "conv"), ([], "0 entries for 1"), (["conv.norm"] * 2, "2")):
        with pytest.raises(ValueError, match=message):
            build_path("Overhaul", student, teacher, teacher_with_norm(gamma, gamma), NORMS=names)
    plain = nn.Module()
    plain.conv = nn.Conv2d(3, 5, 1)
    with pytest.raises(ValueError, match="no BatchNorm"):
        build_path("Overhaul", student, teacher, plain, NORMS=["conv"])


# SR


def test_softmax_regression_holds_the_classifier_without_owning_it():
    student, teacher = maps((2, 3, 4, 4), grad=True), maps((2, 7))
    teacher_model = nn.Sequential(nn.Linear(5, 7))
    path = build_path("SoftmaxRegression", student, teacher, teacher_model, CLASSIFIER="0")
    assert {id(p) for p in path.parameters()}.isdisjoint(map(id, teacher_model.parameters()))
    assert not any(key.startswith("_classifier") for key in path.state_dict())
    path(student, teacher, no_targets())[""].backward()
    assert student[0].grad.abs().max() > 0 and teacher_model[0].weight.grad is None
    with pytest.raises(ValueError, match="no Linear layer of the teacher"):
        build_path("SoftmaxRegression", student, teacher, teacher_model, CLASSIFIER="head")
    with pytest.raises(ValueError, match="makes 7 logits"):
        build_path("SoftmaxRegression", student, maps((2, 5)), teacher_model, CLASSIFIER="0")


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "options", "message"),
    [
        ("AttentionTransfer", (2, 3, 4, 4), (2, 3, 4, 4), {"REDUCTION": "max"}, "sum, mean, norm"),
        ("AttentionTransfer", (2, 3, 4, 4), (2, 3, 2, 2), {"RESIZE": "none"}, "RESIZE: student"),
        ("AttentionTransfer", (2, 3), (2, 3), {}, "N, C, H, W"),
        ("SoftTarget", (2, 3), (2, 4), {}, "same classes"),
        ("SoftTarget", (2, 3), (2, 3, 4, 4), {}, "Tap logits"),
        ("SoftTarget", (2, 3), (2, 3), {"TEMPERATURE": -1.0}, "positive"),
        ("SoftTarget", (2, 3, 4, 4), (2, 3, 8, 8), {"RESIZE": "none"}, "RESIZE: student"),
        ("L2Logits", (2, 3), (2, 3), {"REDUCTION": "max"}, "mean, sum"),
        ("NeuronSelectivity", (2, 3, 4, 4), (2, 3, 4, 4), {"KERNEL": "rbf"}, "polynomial"),
        ("FeatureMap", (2, 3, 4, 4), (2, 5, 4, 4), {"ADAPTER": "none"}, "ADAPTER: conv"),
        ("FKD", (2, 3, 4, 4), (2, 3), {}, "pyramid"),
        ("FKD", (2, 3, 4, 4), (2, 3, 4, 4), {"WEIGHTS": [1.0]}, "four distances"),
        ("FKD", (2, 3, 4, 4), (2, 3, 4, 4), {"POOL": [1, 2]}, "2 entries for 1"),
        ("FKD", (2, 3, 4, 4), (2, 3, 4, 4), {"RESIZE": "none"}, "student, teacher"),
    ],
)
def test_wrong_entries_are_refused_with_a_cure(kind, student, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        build_path(kind, maps(student), maps(teacher), **options)
