"""What a process can say without importing torch."""

import sys
from typing import Any


def tell_what_is_imported(answers: Any) -> None:
    answers.put("torch" in sys.modules)
