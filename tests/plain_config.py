"""A config as Detectron2 and multas define it, and what a test sets; nothing is registered."""

from detectron2.config import CfgNode, get_cfg

from multas.config import add_multas_config, merge_config, merge_opts


def plain_config(*opts, address: str = "") -> CfgNode:
    """The defaults, then a config file or a row, then KEY VALUE pairs."""
    cfg = get_cfg()
    add_multas_config(cfg)
    if address:
        merge_config(cfg, address)
    merge_opts(cfg, opts)
    return cfg
