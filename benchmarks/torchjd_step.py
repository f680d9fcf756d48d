"""A distillation step whose path gradients are computed and combined by TorchJD."""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor

from multas.distillation import Distiller


class TorchJDStep(SimpleTrainer):
    """The same step written with TorchJD.

    The path gradients of the student's backbone (with its pyramid) go into ``.jac``. MGDA combines
    them, and the gradient of the task loss is added.

    Args:
        model: a prepared Distiller.
        data_loader, optimizer: see SimpleTrainer.
        shared_only: use ``mtl_backward``: MGDA for the bottom-up network only; the pyramid gets the
            sum of the gradients.
        chunk: number of losses differentiated at once; None: all, by vmap (TorchJD's default).
        gramian: sum Gram matrices instead of concatenating the Jacobian.

    Raises:
        ImportError: TorchJD is not installed.
    """

    def __init__(
        self,
        model: Distiller,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        shared_only: bool = False,
        chunk: int | None = 1,
        gramian: bool = False,
    ) -> None:
        from torchjd import aggregation, autojac

        super().__init__(model, data_loader, optimizer)
        self._autojac, self._aggregator = autojac, aggregation.MGDA()
        self._shared_only, self._chunk, self._gramian = shared_only, chunk, gramian
        backbone: Any = model.student.backbone
        shared = backbone.bottom_up if shared_only else backbone
        self._parameters = [p for p in shared.parameters() if p.requires_grad]
        self._features: list[Tensor] = []
        if shared_only:
            backbone.bottom_up.register_forward_hook(self._keep_features)

    def _keep_features(self, _module: Any, _args: Any, output: dict[str, Tensor]) -> None:
        self._features = list(output.values())

    def run_step(self) -> None:
        losses = self.model(next(self._data_loader_iter))
        self.optimizer.zero_grad()
        options: dict[str, Any] = {"retain_graph": True, "parallel_chunk_size": self._chunk}
        if self._shared_only:
            self._autojac.mtl_backward(
                losses.paths, self._features, shared_params=self._parameters, **options
            )
        else:
            self._autojac.backward(losses.paths, inputs=self._parameters, **options)
        self._autojac.jac_to_grad(
            self._parameters, self._aggregator, optimize_gramian_computation=self._gramian
        )
        torch.stack(list(losses.task.values())).sum().backward()
        self._write_metrics(losses.task, 0.0)
        self.optimizer.step()
