"""A distillation step whose path gradients are taken and combined by the library TorchJD."""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor

from multas.distillation import Distiller


class TorchJDStep(SimpleTrainer):
    """What a user of TorchJD would write: the same model, teacher, path losses and optimiser.

    Path gradients with respect to the student's backbone (with its pyramid) go into ``.jac``,
    MGDA makes one gradient of them, the task loss adds its own.

    Args:
        model: a prepared Distiller.
        data_loader, optimizer: see SimpleTrainer.
        shared_only: ``mtl_backward``: MGDA for what lies in front of the pyramid alone; the
            pyramid itself takes the plain sum.
        chunk: losses differentiated at once; 1 = one after the other, None = all, by vmap (the
            library's default).
        gramian: do not concatenate the Jacobian, sum up Gram matrices.

    Raises:
        ImportError: the library is not installed.
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
