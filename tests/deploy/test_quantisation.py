"""8 bits: accuracy control asks for the gain of a network, and not for that of each image."""

import numpy as np
import pytest

from multas.deploy.quantisation import quantise, read_network


@pytest.mark.parametrize("library", ["openvino", "onnx"])
def test_accuracy_control_asks_once_for_each_network(two_tasks, library):
    pytest.importorskip("nncf")
    pytest.importorskip(library)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1, 3, 64, 64), np.uint8) for _ in range(9)]
    asked = []

    def gain(network):
        asked.append(network)
        return 0.0 if len(asked) <= 2 else -0.1  # the whole network, asked twice, loses nothing

    quantise(
        read_network(library, str(two_tasks.file)),
        [{"image": image} for image in images],
        gain,
        max_drop=0.5,
    )
    assert 2 <= len(asked) <= 4 < len(images)  # the whole network, that of 8 bits, and which mode
