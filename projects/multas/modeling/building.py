"""What a config that does not make a network is told."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode

from multas.util.errors import UserError


@contextmanager
def building(cfg: CfgNode) -> Iterator[None]:
    """Explain an error in the block, which builds the network of a config.

    Nearly all that can go wrong there is a value that does not fit another one, but the errors of
    Detectron2 and torch do not say so.

    Raises:
        UserError: The block has failed. The message has the error and the place in the code, which
            shows the part of the network, and with it the keys.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be built from this "
            f"config: {type(error).__name__}: {error} (in {last.name}, {last.filename}, line "
            f"{last.lineno}). Correct the keys below MODEL that this part reads."
        ) from error
