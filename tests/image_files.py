"""What tests of data sets write: black images of one size."""

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30


def write_image(file, size=(WIDTH, HEIGHT)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(file)
