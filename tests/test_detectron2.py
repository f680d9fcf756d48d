"""What multas uses of Detectron2 works with the installed NumPy, Pillow, OpenCV and torch."""

import json

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator, SemSegEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer
from PIL import Image

CLASSES = ["disc", "bar"]
# XYXY boxes and classes of two images of 64 x 48 pixels.
GROUND_TRUTH = {
    "000001": [([4, 5, 30, 40], 0), ([31, 2, 60, 20], 1)],
    "000002": [([10, 10, 50, 44], 1)],
}


@pytest.fixture
def voc_dataset(tmp_path):
    """Registers a VOC devkit of two images that also carries COCO annotations; yields its name."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    records = []
    for image_id, objects in GROUND_TRUTH.items():
        image = tmp_path / "JPEGImages" / f"{image_id}.jpg"
        Image.fromarray(np.random.randint(0, 255, (48, 64, 3), np.uint8)).save(image)
        xml = "".join(
            f"<object><name>{CLASSES[label]}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for box, label in objects
        )
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(f"<a>{xml}</a>")
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label}
            for box, label in objects
        ]
        record = {"file_name": str(image), "image_id": image_id, "height": 48, "width": 64}
        records.append({**record, "annotations": annotations})
    (tmp_path / "ImageSets/Main/val.txt").write_text("\n".join(GROUND_TRUTH))
    name = f"test_detectron2_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=CLASSES, dirname=str(tmp_path), split="val", year=2012)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def predictions(objects):
    instances = Instances((48, 64))
    instances.pred_boxes = Boxes(torch.tensor([box for box, _ in objects], dtype=torch.float32))
    instances.pred_classes = torch.tensor([label for _, label in objects])
    instances.scores = torch.linspace(0.9, 0.5, len(objects))
    return {"instances": instances}


def small_retinanet():
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RETINANET.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_detection_evaluators_score_perfect_and_half_right_predictions(voc_dataset, tmp_path, kind):
    def evaluate(detections):
        if kind == "coco":
            evaluator = COCOEvaluator(voc_dataset, output_dir=str(tmp_path / "out"))
        else:
            evaluator = PascalVOCDetectionEvaluator(voc_dataset)
        evaluator.reset()
        for record in DatasetCatalog.get(voc_dataset):
            found = detections[record["image_id"]]
            evaluator.process([record], [predictions(found)])
        return evaluator.evaluate()["bbox"]

    assert evaluate(GROUND_TRUTH)["AP"] == pytest.approx(100)
    wrong = dict(GROUND_TRUTH)
    wrong["000001"] = [([4, 5, 30, 40], 1), ([31, 2, 60, 20], 1)]
    scores = evaluate(wrong)
    # Class disc is never found: its AP is 0; class bar has a false positive ranked at the top.
    assert 0 < scores["AP"] < 50


def test_sem_seg_evaluator_counts_pixels(tmp_path):
    name = f"test_sem_seg_{tmp_path.name}"
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "truth.png")
    record = {"file_name": "image", "sem_seg_file_name": str(tmp_path / "truth.png")}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255)
    evaluator = SemSegEvaluator(name, distributed=False)
    evaluator.reset()
    guess = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    evaluator.process([record], [{"sem_seg": torch.stack([guess == 0, guess == 1]).float()}])
    result = evaluator.evaluate()["sem_seg"]
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    assert result["IoU-disc"] == pytest.approx(100 * 3 / 4)
    assert result["IoU-bar"] == pytest.approx(100 * 3 / 4)
    assert result["pACC"] == pytest.approx(100 * 6 / 7)


def test_visualizer_draws_boxes_and_masks_and_text():
    image = np.full((48, 64, 3), 128, np.uint8)
    instances = predictions(GROUND_TRUTH["000001"])["instances"]
    masks = torch.zeros(2, 48, 64, dtype=torch.bool)
    masks[0, 10:30, 8:20] = True
    metadata = MetadataCatalog.get("__unused").set(thing_classes=CLASSES)
    boxes_only = Visualizer(image, metadata).draw_instance_predictions(instances).get_image()
    instances.pred_masks = masks
    drawn = Visualizer(image, metadata).draw_instance_predictions(instances).get_image()
    MetadataCatalog.remove("__unused")
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (boxes_only[4:42, 3:6] != 128).any()
    assert (drawn[15:25, 10:18] != 128).any(axis=-1).mean() > 0.9
    sem_seg = torch.zeros(48, 64, dtype=torch.long)
    sem_seg[20:] = 1
    panel = Visualizer(image, MetadataCatalog.get("__unused").set(stuff_classes=CLASSES))
    assert (panel.draw_sem_seg(sem_seg).get_image() != 128).any()
    MetadataCatalog.remove("__unused")


def test_retinanet_trains_and_predicts_from_its_checkpoint(voc_dataset, tmp_path):
    cfg = small_retinanet()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset,)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True

    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return PascalVOCDetectionEvaluator(dataset_name)

    trainer = Trainer(cfg)
    before = [p.detach().clone() for p in trainer.model.head.parameters()]
    trainer.resume_or_load()
    trainer.train()
    assert "AP50" in trainer.test(cfg, trainer.model)["bbox"]
    after = list(trainer.model.head.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    metrics = (tmp_path / "run/metrics.json").read_text().splitlines()
    assert np.isfinite(json.loads(metrics[0])["total_loss"])
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))

    # A checkpoint of plain tensors passes torch.load's safe default.
    cfg.MODEL.WEIGHTS = str(tmp_path / "run/model_final.pth")
    instances = DefaultPredictor(cfg)(np.zeros((48, 64, 3), np.uint8))["instances"]
    assert len(instances) > 0
    trainer.model.eval()
    trainer.resume_or_load(resume=True)


def test_clipping_by_value_accepts_parameters_without_gradient():
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    model = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)])
    optimizer = build_optimizer(cfg, model)
    (100 * model[0](torch.ones(2))).sum().backward()
    optimizer.step()
    assert model[0].weight.grad.max() == 0.5
    assert model[1].weight.grad is None


MASKS = {
    "no masks": None,
    "bitmasks": BitMasks(torch.ones(1, 48, 64, dtype=torch.bool)),
    "polygons": PolygonMasks([[np.array([4.0, 5.0, 30.0, 5.0, 30.0, 40.0])]]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_rcnn_trains_and_predicts(kind):
    mask = MASKS[kind] is not None
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = mask
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    model = build_model(cfg)
    instances = Instances((48, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 5.0, 30.0, 40.0]]))
    instances.gt_classes = torch.tensor([1])
    if mask:
        instances.gt_masks = MASKS[kind]
    batch = [{"image": torch.randint(0, 255, (3, 48, 64)).float(), "instances": instances}]
    with EventStorage():
        losses = model(batch)
    assert ("loss_mask" in losses) is mask
    sum(losses.values()).backward()
    assert model.backbone.bottom_up.stem.conv1.weight.grad is None  # frozen by FREEZE_AT
    assert model.backbone.fpn_output2.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        found = model(batch)[0]["instances"]
    assert len(found) == 5
    assert found.has("pred_masks") is mask
    assert all(("segmentation" in row) is mask for row in instances_to_coco_json(found, 1))


def test_augmentations_run_on_images_boxes_and_masks():
    image = np.random.randint(0, 255, (48, 64, 3), np.uint8)
    inputs = T.AugInput(image, boxes=np.array([[4.0, 5.0, 30.0, 40.0]]), sem_seg=image[..., 0])
    steps = [
        T.ResizeShortestEdge(32),
        T.RandomFlip(),
        T.RandomExtent((0.8, 1.2), (0.1, 0.1)),
        T.RandomCrop("relative_range", (0.8, 0.8)),
        T.RandomRotation([-10, 10]),
        T.RandomBrightness(0.8, 1.2),
        T.RandomSaturation(0.8, 1.2),
        T.RandomLighting(2.0),
    ]
    T.AugmentationList(steps)(inputs)
    assert inputs.image.dtype == np.uint8 and inputs.image.shape[:2] == inputs.sem_seg.shape
    assert inputs.boxes.shape == (1, 4)


def test_rotated_boxes_say_that_the_compiled_part_is_missing():
    try:
        from detectron2 import _C  # noqa: F401
    except ImportError:
        from detectron2.layers.rotated_boxes import pairwise_iou_rotated

        with pytest.raises(RuntimeError, match="compiled extension"):
            pairwise_iou_rotated(torch.rand(2, 5), torch.rand(3, 5))
    else:
        pytest.skip("this Detectron2 has its compiled part")


def test_checkpoint_with_code_in_it_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (eval, ("1",))

    torch.save({"model": {"weight": torch.ones(1)}, "extra": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        DetectionCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "bad.pth"))
