#!/usr/bin/env python
"""Train or evaluate what a config describes.

python train_net.py --config-file configs/quickstart/distilled.yaml [--resume] [KEY VALUE ...]
python train_net.py --config-file configs/limited-data/table1.yaml#toy/half/teacher
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../student.pth
python train_net.py --config-file ... --write-config row.yaml [KEY VALUE ...]
"""

from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from multas.config.rows import write_config
from multas.engine import Trainer, load_config, setup
from multas.engine.checks.classes import check_classes, check_test_sets
from multas.engine.checks.images import checked_images
from multas.engine.checks.machine import check_launch
from multas.engine.inference import evaluate, load_model, weights_to_evaluate
from multas.engine.run_folder import begin_evaluation
from multas.util.command_line import HelpFormatter, run
from multas.util.signals import children_not_orphaned


def main(args):
    cfg = setup(args)
    if args.eval_only:
        with checked_images(cfg, cfg.DATASETS.TEST):
            check_test_sets(cfg)
            model = load_model(cfg, weights_to_evaluate(cfg, args.resume))
            check_classes(model, cfg.DATASETS.TEST)
            begin_evaluation(cfg)
            results = evaluate(cfg, model, Trainer.test)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def parse_args(argv=None):
    """Detectron2's command line and ``--write-config``."""
    parser = default_argument_parser(epilog=__doc__)
    parser.formatter_class = HelpFormatter
    parser.add_argument(
        "--write-config",
        metavar="FILE",
        default="",
        help="only write what the config file (or row of a table) and KEY VALUE pairs set, as one "
        "plain YAML file",
    )
    return parser.parse_args(argv)


def write(args):
    cfg = load_config(args.config_file, args.opts)
    write_config(cfg, args.config_file, args.opts, args.write_config)


def start():
    args = parse_args()
    if args.write_config:
        return write(args)
    check_launch(args)
    with children_not_orphaned():
        # Each process tells the mistakes that it finds.
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )


if __name__ == "__main__":
    run(start)
