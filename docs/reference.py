"""A hook of mkdocs: the API reference, a page for each public module, from what its `__all__` holds."""

from __future__ import annotations

import importlib
import types
from typing import Any

MODULES = ("losses", "nn", "nn.init", "models", "training", "data", "random", "evaluation", "tabular", "theory",
           "plots")  # fmt: skip


def names(module: str) -> list[str]:
    """The public names of a module, without the modules among them, which have pages of their own."""
    found = importlib.import_module(module)
    return [name for name in found.__all__ if not isinstance(getattr(found, name), types.ModuleType)]


def pages() -> dict[str, str]:
    """Markdown by file name. A name that is in several modules is explained where it is defined first."""
    written: dict[str, str] = {}
    explained: set[int] = set()
    for module in (*(f"fastgan.{name}" for name in MODULES), "fastgan"):
        text = f"# {module}\n\n{(importlib.import_module(module).__doc__ or '').strip()}\n"
        for name in names(module):
            found = getattr(importlib.import_module(module), name)
            if id(found) not in explained:
                explained.add(id(found))
                text += f"\n::: {module}.{name}\n{_options(found)}"
        written[f"api/{module.removeprefix('fastgan.')}.md"] = text
    return written | {"api/index.md": _index()}


def _options(found: Any) -> str:
    """Leave out the base classes of a class if one is private."""
    private = isinstance(found, type) and any(base.__name__.startswith("_") for base in found.__bases__)
    return "    options: {show_bases: false}\n" if private else ""


def _index() -> str:
    text = "# API reference\n\nThe names of `fastgan` itself:\n\n"
    text += "".join(f"- [{name}][{_home(name)}]\n" for name in names("fastgan"))
    return text + "\nBy module:\n\n" + "".join(f"- [fastgan.{name}]({name}.md)\n" for name in MODULES)


def _home(name: str) -> str:
    """Where a name of `fastgan` is explained."""
    import fastgan

    for module in MODULES:
        found = importlib.import_module(f"fastgan.{module}")
        if getattr(found, name, None) is getattr(fastgan, name) and name in found.__all__:
            return f"fastgan.{module}.{name}"
    return f"fastgan.{name}"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """List them in the navigation."""
    listed = ["api/index.md", "api/fastgan.md", *(f"api/{name}.md" for name in MODULES)]
    config.nav = [{"API reference": listed} if entry == {"API reference": "api/"} else entry for entry in config.nav]
    return config
