"""The fragments of configs/sizes, and the configs of docs/backbones.md."""

import re

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from multas.config.files import read_file
from multas.config.limits import check_limits
from plain_config import plain_config

pytest.importorskip("timm")
SIZES = {"nano": 2.0, "small": 3.3, "medium": 5.1, "large": 11.7}


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "backbones.md").read_text()


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_the_parameters_that_the_page_says(name, repository, page):
    cfg = plain_config(
        "MODEL.DEVICE", "meta", address=str(repository / f"configs/sizes/{name}.yaml")
    )
    check_limits(cfg)
    with torch.device("meta"):
        model = build_model(cfg)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"{count:.1f}" == f"{SIZES[name]}"
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
    for part in (cfg.MODEL.TIMM.NAME, f"{SIZES[name]} M", str(cfg.MODEL.FPN.OUT_CHANNELS)):
        assert part in row
    wanted = model.backbone.bottom_up.body.pretrained_cfg
    for key, own in (("mean", cfg.MODEL.PIXEL_MEAN), ("std", cfg.MODEL.PIXEL_STD)):
        assert [255 * x for x in wanted[key]] == pytest.approx(own)


@pytest.mark.parametrize(
    ("task", "head"), [("seg", "SemanticFPNHead"), ("cls", "LinearClassificationHead")]
)
def test_nano_segments_and_classifies(task, head, repository):
    address = str(repository / "configs/sizes/nano.yaml")
    heads = ["MODEL.MULTITASK.TASKS", [task], "MODEL.MULTITASK.HEADS", [head]]
    model = build_model(plain_config("MODEL.DEVICE", "cpu", *heads, address=address)).eval()
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 64, 96)}])
    assert result[{"seg": "sem_seg", "cls": "scores"}[task]].isfinite().all()


def test_configs_of_the_page_have_keys_that_exist(page, repository, tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for text in blocks:
        content = yaml.safe_load(text)
        if "_BASE_" in content:
            content["_BASE_"] = str(repository / content["_BASE_"])
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        assert read_file(str(tmp_path / "config.yaml"))
        check_limits(plain_config(address=str(tmp_path / "config.yaml")))
