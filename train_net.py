#!/usr/bin/env python
"""Train or evaluate what a config describes.

python train_net.py --config-file configs/quickstart/distilled.yaml [--resume] [KEY VALUE ...]
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../student.pth
"""

from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from multas.engine import Trainer, setup
from multas.engine.checks.classes import check_classes, check_test_sets
from multas.engine.evaluate import evaluate
from multas.engine.inference import load_model, weights_to_evaluate


def main(args):
    cfg = setup(args)
    if args.eval_only:
        check_test_sets(cfg)
        model = load_model(cfg, weights_to_evaluate(cfg, args.resume))
        check_classes(model, cfg.DATASETS.TEST)
        results = evaluate(cfg, model, Trainer.test)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
