"""Libraries that only some tests compare with: each of pytest's processes collects all tests, and tries a part."""

import importlib
from typing import Any


class Later:
    """A module that is imported when something of it, or a module inside it, is first asked for: `Later("sklearn")`."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks at whatever stands in a module
            raise AttributeError(attribute)
        module = importlib.import_module(self._name)
        return getattr(module, attribute) if hasattr(module, attribute) else Later(f"{self._name}.{attribute}")
