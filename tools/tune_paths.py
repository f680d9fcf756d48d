#!/usr/bin/env python
"""Search the weights of the distillation paths on validation images.

    python tools/tune_paths.py --config-file configs/quickstart/distilled.yaml --search tpe \
        --trials 20 --metric bbox/AP OUTPUT_DIR output/tuned

Every trial is a whole training with fixed weights (aggregation hand_tuned), which is judged by a
metric on DATASETS.TEST. Name a validation set there, and report on another one. --search is
  grid     all combinations of --grid, in that order
  random   log-uniform between --low and --high
  tpe      in the same range, near former trials that were good (tree-structured Parzen estimator)
  bilevel  one training in which the weights descend on the validation loss (aggregation bilevel)
Trials are kept in OUTPUT_DIR/trials.db. The same command continues where it was stopped, even in
the middle of a trial. After each trial, trials.md, trials.png and best.yaml are rewritten.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from multas.config.distillation import aggregation_node
from multas.config.limits import above, at_least, check_limit, each
from multas.distillation.aggregation.bilevel import Bilevel
from multas.distillation.paths.spec import parse_paths
from multas.engine import Trainer, load_config
from multas.engine.checks.classes import check_test_sets
from multas.engine.checks.files import check_files
from multas.evaluation.metric_names import check_metric, lower_is_better
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import write_text

Weights = Mapping[str, float]
Trials = Sequence[tuple[int, Weights, float]]

# This attribute marks a trial that failed by itself, and was not interrupted.
DIVERGED = "diverged"


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="the config of the distillation")
    parser.add_argument("--search", choices=["grid", "random", "tpe", "bilevel"], default="tpe",
                        help="how the weights are chosen")  # fmt: skip
    parser.add_argument("--trials", type=int, default=20, help="the number of trainings (not grid)")
    parser.add_argument("--metric", default="bbox/AP",
                        help="the metric to maximise, or an error to minimise")  # fmt: skip
    parser.add_argument("--grid", type=float, nargs="+", default=[0.1, 1.0, 10.0],
                        help="grid: the weights of every path")  # fmt: skip
    parser.add_argument("--low", type=float, default=1e-2, help="the smallest weight")
    parser.add_argument("--high", type=float, default=1e3, help="the largest weight")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    args = parser.parse_args()
    check_limit("--trials", args.trials, at_least(1))
    check_limit("--grid", args.grid, each(above(0)))
    check_limit("--low", args.low, above(0))
    check_limit("--high", args.high, above(0))
    if args.low >= args.high:
        parser.error(f"--low is {args.low:g} and --high {args.high:g}; give --high a larger weight")
    return args


def with_weights(cfg: CfgNode, weights: Weights) -> CfgNode:
    """The config with these weights of the paths, which are fixed."""
    cfg = cfg.clone()
    cfg.defrost()
    specs = parse_paths(cfg.MODEL.DISTILLATION.PATHS)
    pairs = zip(cfg.MODEL.DISTILLATION.PATHS, specs, strict=True)
    cfg.MODEL.DISTILLATION.PATHS = [dict(entry) | {"WEIGHT": weights[s.name]} for entry, s in pairs]
    cfg.MODEL.DISTILLATION.AGGREGATION.NAME = "hand_tuned"
    return cfg


def train(cfg: CfgNode) -> Trainer:
    """A training in its OUTPUT_DIR, from the last checkpoint if there is one."""
    cfg.freeze()
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


def measure(cfg: CfgNode, weights: Weights, metric: str) -> float:
    """Train with these weights, and return the metric.

    Raises:
        UserError: There is no such metric.
    """
    cfg = with_weights(cfg, weights)
    # The folder is named by the weights, so that a trial that was killed finds its checkpoint.
    label = hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:10]
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, f"trial_{label}")
    latest = train(cfg).storage.latest()
    if metric not in latest:
        known = sorted(k for k in latest if "/" in k and not k.startswith("path_"))
        raise UserError(f"--metric {metric}: not measured. Choose from {', '.join(known)}.")
    value = latest[metric][0]
    worst = math.inf if lower_is_better(metric) else -math.inf
    return worst if math.isnan(value) else value


def search(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Run the trials that are still to be run, and write a report on all."""
    try:
        import optuna
        from optuna.trial import TrialState
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError("tune_paths.py needs Optuna: pip install 'multas[tune]'.") from error
    names = [spec.name for spec in parse_paths(cfg.MODEL.DISTILLATION.PATHS)]
    file = f"{os.path.abspath(cfg.OUTPUT_DIR)}/trials.db"
    try:
        study = optuna.create_study(
            study_name=args.search,
            storage=f"sqlite:///{file}",
            direction="minimize" if lower_is_better(args.metric) else "maximize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(
            f"{file} is damaged, or no database of trials. Delete it, or choose another OUTPUT_DIR."
        ) from error
    if args.search == "grid" and not study.trials:
        for values in itertools.product(args.grid, repeat=len(names)):
            study.enqueue_trial(dict(zip(names, values, strict=True)))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    # These trials were interrupted, and are run again from their checkpoints.
    lost = [t for t in study.get_trials(states=(TrialState.FAIL,)) if DIVERGED not in t.user_attrs]
    known = [t.params or t.system_attrs.get("fixed_params") for t in study.trials if t not in lost]
    for params in (trial.params for trial in lost):
        if params.keys() == set(names) and params not in known:
            study.enqueue_trial(params)
            known.append(params)
    # After an interruption, the sampler must not draw the same weights again.
    seed = max(cfg.SEED, 0) + len(study.trials)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers.get(args.search, optuna.samplers.RandomSampler)(seed=seed)
    low, high = args.low, args.high
    if args.search == "grid":
        low, high = min(args.grid), max(args.grid)

    def objective(trial: optuna.Trial) -> float:
        weights = {name: trial.suggest_float(name, low, high, log=True) for name in names}
        try:
            return measure(cfg, weights, args.metric)
        except FloatingPointError:
            trial.set_user_attr(DIVERGED, True)
            raise

    def report(study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        done = study.get_trials(states=(TrialState.COMPLETE,))
        write_report(cfg, [(t.number, t.params, float(t.value or 0)) for t in done], args.metric)

    done = len(study.get_trials(states=(TrialState.COMPLETE,)))
    waiting = len(study.get_trials(states=(TrialState.WAITING,)))
    left = waiting if args.search == "grid" else max(args.trials - done, 0)
    if left:
        # A training that diverges is a bad trial, but no reason to stop.
        study.optimize(objective, left, callbacks=[report], catch=(FloatingPointError,))


def bilevel(cfg: CfgNode, metric: str) -> None:
    """Report the final weights of one training, in which they learn on DATASETS.TEST."""
    learner = cfg.clone()
    # A new node does not have the options of the aggregator that the config names.
    aggregation = learner.MODEL.DISTILLATION.AGGREGATION = aggregation_node()
    aggregation.NAME, aggregation.DATA = "bilevel", list(cfg.DATASETS.TEST)
    learner.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "bilevel")
    trainer = train(learner)
    weights = trainer.path_weights
    if weights is None or not isinstance(weights.aggregator, Bilevel):
        raise UserError("MODEL.DISTILLATION.ALPHA is 0: there are no weights to tune.")
    final = weights.aggregator.u.exp().tolist()
    # Each term of a layer-wise path has its own weight, but an entry of PATHS has only one.
    terms: dict[str, list[float]] = {}
    for (path, _), weight in zip(weights.distillation.labels, final, strict=True):
        terms.setdefault(path, []).append(weight)
    means = {path: sum(values) / len(values) for path, values in terms.items()}
    value = trainer.storage.latest().get(metric, (math.nan, 0))[0]
    write_report(cfg, [(0, means, value)], metric)


def write_report(cfg: CfgNode, trials: Trials, metric: str) -> None:
    """Write trials.md, trials.png and best.yaml into OUTPUT_DIR, with the best trial first."""
    if not trials:
        return
    trials = sorted(trials, key=lambda trial: trial[2], reverse=not lower_is_better(metric))
    names = list(trials[0][1])
    rows = [[n, *(weights[name] for name in names), value] for n, weights, value in trials]
    table = tabulate(rows, ["trial", *names, metric], tablefmt="github", floatfmt=".4g")
    print(table)
    write_text(os.path.join(cfg.OUTPUT_DIR, "trials.md"), table + "\n")
    write_text(os.path.join(cfg.OUTPUT_DIR, "best.yaml"), with_weights(cfg, trials[0][1]).dump())
    size = 3.2 * len(names), 3
    figure, axes = plt.subplots(
        1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        axis.scatter([w[name] for _, w, _ in trials], [v for _, _, v in trials], s=18)
        axis.set(xscale="log", xlabel=f"weight of {name}")
    axes[0, 0].set_ylabel(metric)
    figure.savefig(os.path.join(cfg.OUTPUT_DIR, "trials.png"), dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    setup_logger()
    plt.switch_backend("Agg")
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.META_ARCHITECTURE != "Distiller" or not cfg.MODEL.DISTILLATION.PATHS:
        raise UserError(f"{args.config_file}: no distillation paths to tune.")
    if len(cfg.DATASETS.TEST) != 1:
        raise UserError(
            f"DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}; name the one validation set to tune on."
        )
    if cfg.MODEL.DISTILLATION.ALPHA == 0:
        raise UserError("MODEL.DISTILLATION.ALPHA is 0: there are no weights to tune. Raise it.")
    parse_paths(cfg.MODEL.DISTILLATION.PATHS)
    check_files(cfg, argparse.Namespace(eval_only=False, resume=False))
    check_test_sets(cfg)
    check_metric(cfg, cfg.DATASETS.TEST[0], args.metric, "--metric")
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    if args.search == "bilevel":
        bilevel(cfg, args.metric)
    else:
        search(cfg, args)


if __name__ == "__main__":
    raise SystemExit(run(main))
