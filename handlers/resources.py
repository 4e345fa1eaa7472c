"""Where the files that are not code lie: `consul/`, `templates/` and `tools/`.

An installed Hydra carries them beside this file; a checkout, editable installs included, has them at its top.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_INSTALLED = _HERE / "_data"


def path(*parts: str) -> Path:
    """The file or folder under the given names, as in `path("templates", "supervisord.conf.j2")`."""
    return (_INSTALLED if _INSTALLED.is_dir() else _HERE.parent).joinpath(*parts)
