#!/usr/bin/env python
"""Write a trained network as ONNX or OpenVINO, also in 8 bits, and show what each costs and gains.

    python tools/export.py --config-file STUDENT.yaml --weights student.pth --output export/ \
        --format onnx openvino --int8 --calibrate cells_train --evaluate cells_val --max-drop 0.5

The files have the whole way from pixels to detections, and say how images are prepared for them;
see docs/serving.md. A network in 8 bits that loses more than --max-drop is not kept: the layers
that suffer are computed in full precision first, and if that is not enough the command fails.
"""

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger

from multas.config.limits import at_least, check_limit
from multas.data.dataset_dicts import require_registered
from multas.deploy.quantisation import require_libraries
from multas.engine import load_config
from multas.engine.exporting import FORMATS, prepare_export
from multas.engine.run_log import on_screen
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import require_writable


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="the config of the network, or a row")
    parser.add_argument("--weights", required=True, help="its trained weights")
    parser.add_argument("--output", type=Path, help="the folder for the files; that of the weights")
    parser.add_argument("--format", nargs="+", choices=list(FORMATS), default=["onnx"],
                        help="of the files")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="write networks in 8 bits as well")
    parser.add_argument("--calibrate", default="", help="the registered images to fit 8 bits to")
    parser.add_argument("--images", type=int, default=300, help="the most images for that")
    parser.add_argument("--evaluate", nargs="+", default=[], metavar="DATA_SET",
                        help="the registered data to evaluate on")  # fmt: skip
    parser.add_argument("--search", nargs="+", default=[], metavar="DATA_SET",
                        help="the registered data to find the layers on that suffer from 8 bits; "
                        "those of --evaluate")  # fmt: skip
    parser.add_argument("--max-drop", type=float, default=0.5, help="what 8 bits may cost of AP")
    parser.add_argument("--size", type=int, nargs=2, default=(0, 0), metavar=("HEIGHT", "WIDTH"),
                        help="pixels; 0 0 = of the config and the images")  # fmt: skip
    parser.add_argument("--dynamic-batch", action="store_true", help="take several images at once")
    parser.add_argument("--dynamic-size", action="store_true", help="take images of other sizes")
    parser.add_argument("--no-nms", dest="nms", action="store_false", help="give all boxes")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of the config")
    args = parser.parse_args()
    check_limit("--max-drop", args.max_drop, at_least(0))
    check_limit("--images", args.images, at_least(1))
    if args.int8 and not args.calibrate:
        raise UserError("--int8 needs images that 8 bits are fitted to: --calibrate DATA_SET.")
    return args


def main() -> None:
    args = parse_args()
    with on_screen():
        setup_logger()
    stem = (args.output or Path(args.weights).parent) / Path(args.weights).stem
    require_writable(stem.with_suffix(".onnx"), "--output")
    require_libraries(args.format, args.int8)
    cfg = load_config(args.config_file, args.opts)
    named = [*filter(None, [args.calibrate]), *args.evaluate, *args.search]
    require_registered(named, "the command line")
    cfg.defrost()
    cfg.DATASETS.TEST = args.evaluate
    cfg.MODEL.DEVICE = "cpu"
    prepare_export(
        cfg, args.weights, tuple(args.size), args.calibrate, args.images,
        stem=stem, max_drop=args.max_drop, search=args.search, nms=args.nms,
        dynamic_batch=args.dynamic_batch, dynamic_size=args.dynamic_size,
    ).run(args.format, args.int8)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run(main))
