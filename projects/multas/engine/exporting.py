"""From a trained network to files for other runtimes, each evaluated before it counts."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from multas.config import prefer_exported_file
from multas.data.class_names import class_names
from multas.data.image_files import read_image
from multas.data.measures import spread
from multas.deploy.describe import IMAGE, SIZES, describe_network
from multas.deploy.detector import KEY, Description, Detector, Runtime, prepare
from multas.deploy.exported_model import NAME as EXPORTED
from multas.deploy.graph import ExportGraph
from multas.deploy.onnx_file import black_image, write_onnx
from multas.deploy.quantisation import (
    SUFFIXES,
    Compiled,
    Gain,
    quantise,
    read_network,
    save_network,
)
from multas.distillation import unwrap
from multas.engine.checks.classes import check_classes
from multas.engine.export_table import Row, figures_of, listed, table, write_rows
from multas.engine.few_images import register_few
from multas.engine.inference import load_model
from multas.engine.trainer import Trainer
from multas.util.allocator import freed_memory_kept
from multas.util.errors import UserError
from multas.util.files import written_whole
from multas.util.screen import shown_from

logger = logging.getLogger(__name__)

TORCH = {"torchscript": ".ts", "torch_export": ".pt2"}  # files that torch reads
FORMATS = SUFFIXES | TORCH  # and the suffixes of their files
SEARCHED = 50  # images of a data set that tell which layers suffer from 8 bits


@dataclass(kw_only=True)
class Export:
    """A trained network on its way into files.

    Attributes:
        cfg: its config, with the data set to evaluate on in DATASETS.TEST, or with none.
        model: the network in eval mode.
        description: how images are prepared for it.
        stem: path of the files without suffix.
        images: dataset dicts of the images to calibrate 8 bits with, and to take the time with.
        max_drop: what 8 bits may cost of each figure.
        search: registered data sets, of which a few images tell which layers suffer most from 8
            bits; those of DATASETS.TEST if there are none.
    """

    cfg: CfgNode
    model: nn.Module
    description: Description
    stem: Path
    images: Sequence[Mapping[str, Any]] = ()
    max_drop: float = 0.5
    search: Sequence[str] = ()
    nms: bool = True
    dynamic_batch: bool = False
    dynamic_size: bool = False

    def run(self, formats: Sequence[str], int8: bool) -> list[Row]:
        """Write the files of all formats, and evaluate each.

        Raises:
            UserError: A network in 8 bits has lost more than ``max_drop``, even with the layers
                that suffer in full precision. It is not there then; all other files are.
        """
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        graph = ExportGraph(self.model, self.nms).eval()
        rows = [self._of_torch(graph)]
        rows += [self._torch_file(name, graph) for name in formats if name in TORCH]
        onnx_file = self.stem.with_suffix(".onnx" if "onnx" in formats else ".partial.onnx")
        described = write_onnx(
            graph, self.description, str(onnx_file), self.dynamic_batch, self.dynamic_size
        )
        failed = []
        try:
            for name in (name for name in formats if name not in TORCH):
                file = self.stem.with_suffix(SUFFIXES[name])
                if name == "openvino":
                    save_network(read_network(name, str(onnx_file)), described, str(file))
                rows.append(self._row(name, file))
                if int8:
                    row, fault = self._in_8_bits(name, str(onnx_file), described, rows[0].figures)
                    rows.append(row)
                    failed += [fault] if fault else []
        finally:
            if "onnx" not in formats:
                onnx_file.unlink(missing_ok=True)
        logger.info("Exported networks:\n" + table(rows))
        write_rows(self.stem.parent, self.stem.name, [rows[0], *(r for r in rows[1:] if r.file)])
        if failed:
            raise UserError("; ".join(failed) + ". Give more images to calibrate with, or a larger "
                            "--max-drop.")  # fmt: skip
        return rows

    def _in_8_bits(
        self, name: str, onnx_file: str, described: Description, whole: Mapping[str, float]
    ) -> tuple[Row, str]:
        """A network in 8 bits, and what is wrong with it, if it is not kept."""
        file = self.stem.with_name(f"{self.stem.name}_int8{SUFFIXES[name]}")
        partial = file.with_name(f"{file.stem}.partial{file.suffix}")
        inputs = [self._inputs(record) for record in self.images]
        try:
            for score in (None, self._gain(onnx_file, described))[: 1 + bool(whole)]:
                network = quantise(read_network(name, onnx_file), inputs, score, self.max_drop)
                save_network(network, described, str(partial))
                row = self._row(f"{name} int8", partial)
                drops = {task: whole[task] - row.figures[task] for task in whole}
                if all(drop <= self.max_drop for drop in drops.values()):
                    _move(partial, file)
                    return replace(row, file=file.name), ""
                logger.warning(f"{file}: 8 bits cost {listed(drops)}.")
        finally:
            _remove(partial)
        return replace(row, file=""), f"{file} is not written: 8 bits cost {listed(drops)}"

    def _gain(self, onnx_file: str, described: Description) -> Gain:
        """What a network gains on a few images, compared with the one in full precision.

        It is the least of all figures. Many networks are asked for it, thus the few images.
        """
        few = self.cfg.clone()
        few.defrost()
        whole: dict[str, float] = {}

        def gain(network: Any) -> float:
            if not whole:
                names = self.search or self.cfg.DATASETS.TEST
                few.DATASETS.TEST = [register_few(name, SEARCHED) for name in names]
                whole.update(self._judged(few, self.model))
            found = self._figures(onnx_file, Compiled(network, described), few)
            return min(found[task] - whole[task] for task in whole)

        return gain

    def _of_torch(self, graph: ExportGraph) -> Row:
        def call(inputs: Mapping[str, np.ndarray]) -> None:
            with torch.inference_mode():
                graph(*(torch.from_numpy(x) for x in inputs.values()))

        size = sum(p.numel() * p.element_size() for p in graph.parameters())
        figures = self._judged(self.cfg, self.model) if self._evaluates else {}
        return Row("PyTorch fp32", size, self._times(call), figures)

    def _torch_file(self, name: str, graph: ExportGraph) -> Row:
        """A file that torch.jit.load or torch.export.load reads; its figures are PyTorch's."""
        file = self.stem.with_suffix(FORMATS[name])
        inputs = tuple(torch.from_numpy(x) for x in self._example().values())
        run: Callable[..., Any]
        with torch.no_grad(), warnings.catch_warnings(), written_whole(file) as partial:
            warnings.simplefilter("ignore")  # sizes are constants of the trace on purpose
            outputs = {output: output for output in graph.results(*inputs)}
            described = {KEY: replace(self.description, outputs=outputs).to_json()}
            if name == "torchscript":
                run = traced = torch.jit.trace(graph, inputs, check_trace=False)
                torch.jit.save(traced, partial, _extra_files=described)
            else:
                program = torch.export.export(graph, inputs)
                torch.export.save(program, partial, extra_files=described)
                run = program.module()

        def call(inputs: Mapping[str, np.ndarray]) -> None:
            with torch.inference_mode():
                run(*(torch.from_numpy(x) for x in inputs.values()))

        return Row(name, file.stat().st_size, self._times(call), file=file.name)

    def _row(self, name: str, file: Path) -> Row:
        runtime = Detector(str(file)).runtime
        parts = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
        size = sum(part.stat().st_size for part in parts)
        figures = self._figures(str(file)) if self._evaluates else {}
        return Row(name, size, self._times(runtime), figures, file.name)

    def _figures(
        self, file: str, runtime: Runtime | None = None, cfg: CfgNode | None = None
    ) -> dict[str, float]:
        """The figures of a file.

        Args:
            file: a network.
            runtime: another one with its inputs and outputs, in its place.
            cfg: has the data sets in DATASETS.TEST; None: that of the export.
        """
        cfg = exported(cfg or self.cfg, file)
        model: Any = load_model(cfg, file)
        model.detector.runtime = runtime or model.detector.runtime
        return self._judged(cfg, model)

    def _judged(self, cfg: CfgNode, model: nn.Module) -> dict[str, float]:
        """The figures of a model; the table at the end has those of all."""
        with shown_from(logging.WARNING), freed_memory_kept():
            return figures_of(Trainer.test(cfg, model))

    @property
    def _evaluates(self) -> bool:
        return bool(self.cfg.DATASETS.TEST) and self.nms

    def _inputs(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        image = read_image(record["file_name"], self.description.format)
        seen = prepare(np.asarray(image), self.description)
        inputs = {IMAGE: seen.pixels[None]}
        if self.description.image_sizes:
            inputs[SIZES] = np.array([seen.size], np.float32)
        return inputs

    def _example(self) -> dict[str, np.ndarray]:
        black = black_image(self.description, len(self.cfg.MODEL.PIXEL_MEAN))
        return self._inputs(self.images[0]) if self.images else black

    def _times(self, call: Callable[[Mapping[str, np.ndarray]], Any]) -> list[float]:
        """Milliseconds of 21 calls for one image, after some to warm up."""
        inputs = self._example()
        times = []
        for _ in range(24):
            start = time.perf_counter()
            call(inputs)
            times.append(1000 * (time.perf_counter() - start))
        return times[3:]


def exported(cfg: CfgNode, file: str) -> CfgNode:
    """The config of the same network in a file, which resizes images itself."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.WEIGHTS = EXPORTED, file
    prefer_exported_file(cfg)
    return cfg


def sizes_of(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Heights and widths of images."""
    return ((r["height"], r["width"]) for r in records if "height" in r and "width" in r)


def prepare_export(
    cfg: CfgNode,
    weights: str,
    size: tuple[int, int],
    calibrate: str,
    max_images: int,
    **options: Any,
) -> Export:
    """Load the network and the data that its export needs.

    Args:
        cfg: the config of the network; DATASETS.TEST has the data set to evaluate on, or none.
        calibrate: a registered data set; "": none.
        options: further fields of :class:`Export`.

    Raises:
        UserError: with what is wrong with them.
    """
    tests = list(cfg.DATASETS.TEST)
    records = DatasetCatalog.get(calibrate or tests[0]) if calibrate or tests else []
    known = {name: DatasetCatalog.get(name) for name in tests}
    images = [record for own in (records, *known.values()) for record in own]
    model = unwrap(load_model(cfg, weights))[0].cpu()
    check_classes(model, [*filter(None, [calibrate]), *tests, *options.get("search", ())])
    sizes = list(sizes_of(images))
    if options.get("dynamic_size") and not sizes:
        sizes = [(max(cfg.INPUT.MIN_SIZE_TEST, 64),) * 2]  # of the example that is traced
    if options.get("dynamic_size") and cfg.INPUT.SQUARE_SIZE:
        raise UserError(
            f"--dynamic-size: all images are stretched to {cfg.INPUT.SQUARE_SIZE} pixels "
            "(INPUT.SQUARE_SIZE); leave it out."
        )
    description = describe_network(cfg, model, class_names(cfg), size, sizes)
    return Export(
        cfg=cfg, model=model, description=description, images=spread(records, max_images), **options
    )


def _move(partial: Path, file: Path) -> None:
    for suffix in (".bin", file.suffix):
        if partial.with_suffix(suffix).is_file():
            partial.with_suffix(suffix).replace(file.with_suffix(suffix))


def _remove(file: Path) -> None:
    for suffix in (".bin", file.suffix):
        file.with_suffix(suffix).unlink(missing_ok=True)
