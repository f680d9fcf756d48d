"""Merging what a file says into a config, with messages that name the key."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.config.compat import guess_version

from multas.util.errors import UserError
from multas.util.names import did_you_mean

# Truth values of Detectron2 that may also be "auto".
_OR_AUTO = ("SOLVER.AMP.ENABLED",)


def merge_content(cfg: CfgNode, content: Mapping[str, Any], where: str, group: str = "") -> None:
    """Merge nested keys into a config, in place.

    Args:
        cfg: the config, or one of its groups.
        content: the keys of a file of the latest version.
        where: the file, for messages.
        group: the name of the group that ``cfg`` is, for messages.

    Raises:
        UserError: A key is unknown or renamed, or a value is of the wrong type.
    """
    _check_names(content, where)
    try:
        node = CfgNode(dict(content))
        _check_entries(cfg, node, cfg, where, group)
        cfg.merge_from_other_cfg(node)
    except UserError:
        raise
    except (AssertionError, RecursionError, ValueError) as error:  # as yacs refuses a value
        raise UserError(f"{where}: {error}. Correct that key.") from error


def merge_old_content(cfg: CfgNode, content: Mapping[str, Any], file: str) -> None:
    """Merge the keys of a config file of any version, in place, as Detectron2 does.

    Raises:
        UserError: As :func:`merge_content`, or its VERSION is none that is known.
    """
    latest, version = cfg.VERSION, content.get("VERSION")
    _check_names(content, file)
    if version is None:
        # Detectron2 only looks for two names, whatever their values.
        names = {g: dict.fromkeys(v) for g, v in content.items() if isinstance(v, Mapping)}
        version = guess_version(CfgNode(names), file)
    if type(version) is not int or not 1 <= version <= latest:
        raise UserError(f"{file}: VERSION is {version!r}; write {latest}, the latest.")
    if version == latest:
        merge_content(cfg, content, file)
        return
    old = downgrade_config(cfg, to_version=version)
    merge_content(old, content, file)
    new = upgrade_config(old)
    cfg.clear()
    cfg.update(new)


def decode(value: Any, key: str) -> Any:
    """The value that a text means to yacs: a number, list … or the text itself.

    Raises:
        UserError: It cannot be made sense of. The message names the key.
    """
    try:
        decoded = CfgNode._decode_cfg_value(value)
        if isinstance(decoded, str) and "\0" in decoded:
            raise TypeError("it has a zero byte")
        return decoded
    except (MemoryError, RecursionError, TypeError) as error:
        raise UserError(f"{key}: '{str(value)[:60]}' is no value ({error}).") from error


def adopt_auto(cfg: CfgNode, name: str, value: Any, key: str) -> None:
    """Let a key that may be a truth value or "auto" change from one to the other, in place.

    Everywhere else a value keeps the type of what it replaces.

    Args:
        cfg: the group of the key.
        name: its name there.
        value: what it is going to be, decoded.
        key: the key in full.
    """
    if key in _OR_AUTO and (value == "auto" or isinstance(value, bool)):
        cfg[name] = value


def check_value(value: Any, default: Any, key: str) -> None:
    """Make sure that a decoded value has the type of what it replaces.

    Raises:
        UserError: It has not. The message names the key, both types and an example.
    """
    own, wanted = type(value), type(default)
    if own is wanted or default is None or {own, wanted} == {list, tuple}:
        return
    if isinstance(default, CfgNode):
        raise UserError(
            f"{key} is {value!r}, but it is a group of keys; set one of "
            f"{', '.join(f'{key}.{name}' for name in list(default)[:3])} …"
        )
    example = f"{value}.0" if own is int and wanted is float else repr(default)
    raise UserError(
        f"{key} is {value!r} of the type {own.__name__}, expected {wanted.__name__}, for example "
        f"{example}."
    )


def _check_names(content: Mapping[Any, Any], where: str) -> None:
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(
                f"{where}: the key {name!r} is no text. Put it in quotes (YAML takes on, off, yes "
                "and no for true and false)."
            )
        if isinstance(value, Mapping):
            _check_names(value, where)


def _check_entries(
    cfg: CfgNode, content: Mapping[str, Any], root: CfgNode, where: str, group: str
) -> None:
    for name, value in content.items():
        key = f"{group}.{name}" if group else name
        if name in cfg:
            value = decode(value, f"{where}: {key}")
            adopt_auto(cfg, name, value, key)
            own = cfg[name]
            check_value(value, own, f"{where}: {key}")
            if isinstance(own, CfgNode):
                _check_entries(own, value, root, where, key)
            continue
        check_not_renamed(root, key, f"{where}: ")
        if not cfg.is_new_allowed() and key not in root.__dict__[CfgNode.DEPRECATED_KEYS]:
            raise UserError(
                f"{where}: {group or 'the config'} has no key '{name}'.{did_you_mean(name, cfg)}"
            )


def check_not_renamed(cfg: CfgNode, key: str, where: str = "") -> None:
    """Make sure that a key does not have another name now.

    Raises:
        UserError: It has. The message begins with ``where`` and gives the new name.
    """
    if cfg.key_is_renamed(key):
        try:
            cfg.raise_key_rename_error(key)
        except KeyError as error:
            raise UserError(f"{where}{error.args[0]}") from None
