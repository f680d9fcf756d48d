"""A data set of a few images of another, for what must be evaluated often."""

from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.measures import spread

# What evaluators would take the truth of all images from; without these they ask for dicts.
_OF_FILES = ("dirname", "split", "json_file")


def register_few(name: str, count: int) -> str:
    """Register at most ``count`` images of a registered data set, equally far apart.

    Returns:
        The name of the data set with these.
    """
    own = f"{name}_few{count}"
    if own not in DatasetCatalog.list():
        records = spread(DatasetCatalog.get(name), count)
        known = MetadataCatalog.get(name).as_dict()
        kept = {k: v for k, v in known.items() if k != "name" and k not in _OF_FILES}
        DatasetCatalog.register(own, partial(list, records))
        MetadataCatalog.get(own).set(**kept)
    return own
