"""What every model that runs an engine has in common: it lasts until it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Lasting(ABC):
    """A model whose engine works until `close`, at the latest when a `with` block ends."""

    @abstractmethod
    def close(self) -> None:
        """End every request with an error; the model cannot be used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
