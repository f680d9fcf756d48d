"""What a teacher said, from disk, is what it says, to half precision."""

import math

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from multas.distillation import Teacher
from multas.distillation.taps import leaves
from multas.distillation.teacher.cache import TeacherCache, TeacherOutput, fingerprint, pack, unpack
from multas.distillation.teacher.mean_teacher import MeanTeacher
from multas.distillation.teacher.precision import teacher_precision
from multas.modeling.precision import native_half

CPU = torch.device("cpu")


@given(arrays("float32", array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1, 1, width=32)))
def test_packing_keeps_eleven_bits(array):
    values = torch.from_numpy(array)
    for power in (-60, 0, 60):
        scaled = values * 2.0**power
        packed = unpack(pack([scaled]))
        back = packed.halves[0].float() * packed.scales[0]
        # Half a unit in the last place; below 2^-29 of the largest value, of the smallest half.
        allowed = torch.maximum(scaled.abs() * 2**-11, scaled.abs().max() * 2**-39)
        assert ((back - scaled).abs() <= allowed).all()


def test_packing_knows_nothing_all_zero_not_finite_and_boxes():
    boxes = torch.rand(0, 4)
    packed = unpack(pack([torch.zeros(2), torch.rand(0, 3), torch.tensor([math.inf])], boxes))
    assert packed.halves[0].tolist() == [0, 0]
    assert packed.halves[1].shape == (0, 3)
    assert packed.halves[2].tolist() == [math.inf]
    assert packed.boxes.shape == (0, 4)
    assert unpack(pack([torch.zeros(1)])).boxes is None


class Net(nn.Module):
    """Two convolutions and a dict behind them; counts images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv2d(3, 4, 3, padding=1, norm=nn.BatchNorm2d(4), bias=False)
        self.second = Conv2d(4, 2, 1, norm=FrozenBatchNorm2d(2))
        for norm in (self.first.norm, self.second.norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.seen = 0

    @property
    def device(self):
        return self.first.weight.device

    def forward(self, inputs):
        self.seen += len(inputs)
        height, width = (max(x["image"].shape[a] for x in inputs) for a in (1, 2))
        images = torch.zeros(len(inputs), 3, height, width)
        for image, x in zip(images, inputs, strict=True):
            _, h, w = x["image"].shape
            image[:, :h, :w] = x["image"].float() / 255
        return self.second(self.first(images))


def inputs(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.randint(0, 255, (3, *size), generator=generator)} for size in sizes]


def cached(teacher, folder, limit=10**8) -> Teacher:
    template = teacher.probe(["first", "second"], inputs((8, 8)))
    teacher.keep_outputs(str(folder), limit, template)
    teacher.model.seen = 0
    return teacher


def close(one: dict, other: dict) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.allclose(a, b, rtol=2**-10, atol=1e-6) for a, b in pairs)


def test_an_image_is_shown_once(tmp_path):
    teacher = cached(Teacher(Net()), tmp_path)
    batch = inputs((8, 8), (8, 8), (8, 8))
    first = teacher.record(batch[:2])
    assert teacher.model.seen == 2
    again = teacher.record([batch[1], batch[0]])
    assert teacher.model.seen == 2
    assert close({n: v.flip(0) for n, v in again.items()}, first)
    both = teacher.record(batch)
    assert teacher.model.seen == 3
    teacher.cache = None
    assert close(both, teacher.record(batch))


def test_padding_is_part_of_what_an_image_is(tmp_path):
    """A small image beside a large one is padded, and what its border meets differs."""
    teacher = cached(Teacher(Net()), tmp_path)
    small, large = inputs((6, 6), (8, 8))
    teacher.record([small])
    mixed = teacher.record([small, large])
    assert mixed["second"].shape[-2:] == (8, 8)
    again = teacher.record([small, large])
    assert teacher.model.seen == 3
    # Only the small one is new beside another large one; alone it would be padded less.
    other = inputs((8, 8), seed=5)[0]
    teacher.record([other])
    teacher.model.seen = 0
    third = teacher.record([inputs((6, 6), seed=6)[0], other])
    assert teacher.model.seen == 2
    teacher.cache = None
    assert close(mixed, again) and close(mixed, teacher.record([small, large]))
    assert close(third, teacher.record([inputs((6, 6), seed=6)[0], other]))


def test_it_outlives_the_process_but_not_another_teacher(tmp_path):
    model = Net()
    batch = inputs((8, 8))
    cached(Teacher(model), tmp_path).record(batch)
    again = cached(Teacher(model), tmp_path)
    again.record(batch)
    assert model.seen == 0
    model.second.weight.data[0, 0] += 1e-3
    changed = cached(Teacher(model), tmp_path)
    changed.record(batch)
    assert model.seen == 1
    half = cached(Teacher(model, precision=torch.bfloat16), tmp_path)
    half.record(batch)
    assert model.seen == 1


def test_the_least_recently_used_goes(tmp_path):
    teacher = cached(Teacher(Net()), tmp_path, limit=300_000)
    batches = [inputs((64, 64), seed=i) for i in range(20)]
    for batch in batches:
        teacher.record(batches[0])
        teacher.record(batch)
    teacher.model.seen = 0
    teacher.record(batches[0])
    assert teacher.model.seen == 0
    teacher.record(batches[1])
    assert teacher.model.seen == 1


def test_boxes_are_kept_exactly(tmp_path):
    template = {"a": torch.zeros(1, 2)}
    cache = TeacherCache(str(tmp_path), 10**6, teacher="t", template=template, device=CPU)
    boxes = [Boxes(torch.rand(count, 4) * 300) for count in (0, 3)]

    def run(batch, thresh):
        return TeacherOutput({"a": torch.ones(len(batch), 2)}, boxes)

    batch = inputs((8, 8), (8, 8))
    cache.output_of(batch, 0.5, run)
    found = cache.output_of(batch, 0.5, None)
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(found.boxes, boxes, strict=True))
    assert (cache.hits, cache.misses) == (2, 2)
    with pytest.raises(TypeError):  # another threshold, so the teacher (None) is asked
        cache.output_of(batch, 0.4, None)


def test_a_layer_without_a_row_for_each_image_is_refused(tmp_path):
    cache = TeacherCache(str(tmp_path), 10**6, teacher="t", template={}, device=CPU)
    batch = inputs((8, 8), (8, 8))
    with pytest.raises(ValueError, match=r"layer 'flat' returned the shapes \[\(3,\)\] for 2"):
        cache.output_of(batch, None, lambda *_: TeacherOutput({"flat": torch.ones(3)}, []))


@pytest.mark.parametrize("value", [torch.ones(2, 3).long(), torch.ones(2, 3) > 0])
def test_what_is_no_floating_point_number_is_refused(tmp_path, value):
    cache = TeacherCache(str(tmp_path), 10**6, teacher="t", template={}, device=CPU)
    with pytest.raises(ValueError, match="layer 'ids' returned integers or booleans"):
        cache.output_of(inputs((8, 8), (8, 8)), None, lambda *_: TeacherOutput({"ids": value}, []))


def test_a_layer_that_returns_more_than_tensors_is_refused(tmp_path):
    template = {"head": [torch.zeros(1, 2), Boxes(torch.zeros(0, 4))]}
    with pytest.raises(ValueError, match=r"layer 'head' returns more than tensors"):
        TeacherCache(str(tmp_path), 10**6, teacher="t", template=template, device=CPU)


def test_a_teacher_that_sees_images_together_has_no_cache(tmp_path):
    model = Net()
    model.first.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="BatchNorm without running statistics"):
        cached(Teacher(model), tmp_path)


def test_a_miss_and_a_hit_are_the_same_to_the_last_bit(tmp_path):
    teacher, batch = cached(Teacher(Net()), tmp_path), inputs((8, 8), (8, 8))
    first, second = teacher.record(batch), teacher.record(batch)
    assert teacher.model.seen == 2
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_precision_of_the_training_step_is_part_of_the_name(tmp_path):
    teacher, batch = cached(Teacher(Net()), tmp_path), inputs((8, 8))
    exact = teacher.record(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = teacher.record(batch)
    assert teacher.model.seen == 2
    assert not torch.equal(exact["first"], coarse["first"])


def test_a_teacher_that_follows_the_student_has_no_cache(tmp_path):
    teacher = Teacher(Net(), mean_teacher=MeanTeacher(0.9))
    with pytest.raises(ValueError, match=r"EMA_DECAY 0.9"):
        teacher.keep_outputs(str(tmp_path), 10**6, {})


def test_fingerprint_sees_weights_statistics_structure_and_more():
    model = Net()
    names = [fingerprint(model), fingerprint(model, "taps")]
    model.first.norm.running_var[1] *= 2
    names.append(fingerprint(model))
    model.first.stride = (2, 2)
    names.append(fingerprint(model))
    assert len(set(names)) == 4
    assert fingerprint(model) == names[3]


def test_streamlined_network_says_the_same_and_keeps_tapped_norms():
    torch.manual_seed(1)
    teacher = Teacher(Net())
    batch = inputs((8, 8), (8, 8))
    teacher.probe(["first.norm", "second"], batch)
    before = teacher.record(batch)
    teacher.optimize_for_inference()
    after = teacher.record(batch)
    assert teacher.model.first.norm is not None and teacher.model.second.norm is None
    for name in before:
        torch.testing.assert_close(after[name], before[name])
        assert after[name].is_contiguous()


def test_norms_by_the_batch_stay():
    model = Net()
    model.first.norm = nn.BatchNorm2d(4, track_running_stats=False)
    teacher = Teacher(model)
    teacher.optimize_for_inference()
    assert model.first.norm is not None and model.second.norm is None


def test_a_following_teacher_is_not_optimized():
    teacher = Teacher(Net(), mean_teacher=MeanTeacher(0.9))
    teacher.optimize_for_inference()
    assert teacher.model.first.norm is not None


def test_precision_changes_what_is_computed_but_not_what_paths_get():
    torch.manual_seed(1)
    model, batch = Net(), inputs((16, 16))
    exact, coarse = Teacher(model), Teacher(model, precision=torch.bfloat16)
    for teacher in (exact, coarse):
        teacher.probe(["second"], batch)
    a, b = exact.record(batch)["second"], coarse.record(batch)["second"]
    assert b.dtype == torch.float32
    error = (a - b).norm() / a.norm()
    assert 1e-4 < error < 2e-2
    coarse.optimize_for_inference()
    assert coarse.model.first.weight.dtype == torch.bfloat16
    assert (coarse.record(batch)["second"] - a).norm() / a.norm() < 2e-2
    again = Teacher(coarse.model, precision=torch.bfloat16)  # another one of the same network
    again.probe(["second"], batch)
    again.optimize_for_inference()
    assert torch.equal(again.record(batch)["second"], coarse.record(batch)["second"])


def test_a_teacher_that_is_also_evaluated_keeps_its_weights():
    teacher = Teacher(Net(), precision=torch.bfloat16)
    teacher.optimize_for_inference(evaluated=True)
    assert teacher.model.first.weight.dtype == torch.float32


def test_precision_by_name():
    assert teacher_precision("", CPU) is None
    assert teacher_precision("bfloat16", CPU) is torch.bfloat16
    assert teacher_precision("auto", CPU) is native_half(CPU)
    with pytest.raises(ValueError, match=r"TEACHER.PRECISION is 'int4'"):
        teacher_precision("int4", CPU)
