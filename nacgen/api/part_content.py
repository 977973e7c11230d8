"""The content of a part of a user's own as a digest, by which a finished run is known again."""

import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nacgen.training.fingerprints import digest

MAX_OBJECTS = 20_000
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), torch.dtype)
# Members of a class that say nothing of what it does, or are told elsewhere.
NO_CONTENT = {"__doc__", "__module__", "__firstlineno__", "_abc_impl", "__static_attributes__"}
NO_CONTENT |= {"__annotations__", "__annotate__", "__annotate_func__", "__slotnames__"}
PLACES = (*sysconfig.get_paths().values(), site.getusersitepackages())
PACKAGES = {"site-packages", "dist-packages"}  # of another environment, too
LIBRARIES = tuple(str(Path(path).resolve()) for path in set(PLACES))


class UntoldContentError(ValueError):
    """A part refers to something whose content cannot be told."""


def content_of(part: Any) -> str:
    """Return a digest that is the same for the same code and values; of a module, without its weights.

    Functions are told by their code, defaults, closure and globals, objects by their class and attributes,
    installed code by its name.

    Raises:
        UntoldContentError: It refers to a lock, an iterator or the like, or to too many objects.
    """
    weights = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []
    try:
        return _Teller({id(x) for x in weights}).tell(part)
    except RecursionError as error:
        raise UntoldContentError("objects too deep in one another") from error


class _Teller:
    """A walk over everything that a part refers to, each object once."""

    def __init__(self, shapes_only: set[int]) -> None:
        self._shapes_only = shapes_only
        self._told: dict[int, str] = {}
        self._held: list[Any] = []  # or another object would get the number of one that is gone

    def tell(self, x: Any) -> str:
        if isinstance(x, PLAIN):
            return f"{type(x).__name__} {x!r}"
        if isinstance(x, ModuleType):
            return f"module {x.__name__}"
        if id(x) not in self._told:
            if len(self._held) == MAX_OBJECTS:
                raise UntoldContentError(f"more than {MAX_OBJECTS:,} objects")
            self._told[id(x)] = f"cycle {len(self._held)}"
            self._held.append(x)
            try:
                self._told[id(x)] = digest(list(self._facts(x)))
            except (UntoldContentError, RecursionError):
                raise
            except Exception as error:  # of any object that does not say what it holds
                raise UntoldContentError(f"a {type(x).__qualname__}") from error
        return self._told[id(x)]

    def _facts(self, x: Any) -> Iterator[Any]:
        if isinstance(x, type):
            yield from self._class(x)
        elif isinstance(x, FunctionType):
            yield from self._function(x)
        elif isinstance(x, CodeType):
            names = (x.co_names, x.co_varnames, x.co_freevars, x.co_cellvars)
            yield from ("code", x.co_code.hex(), names, list(map(self.tell, x.co_consts)))
        elif isinstance(x, MethodType | BuiltinFunctionType):
            function = getattr(x, "__func__", None)
            yield from ("method", x.__qualname__, self.tell(function), self.tell(x.__self__))
        elif isinstance(x, property | staticmethod | classmethod):
            functions = (getattr(x, name, None) for name in ("fget", "fset", "fdel", "__func__"))
            yield from (type(x).__name__, *map(self.tell, functions))
        elif isinstance(x, Tensor) and is_lazy(x):
            yield "lazy"
        elif isinstance(x, Tensor):
            yield from (str(x.dtype), list(x.shape), x.requires_grad)
            if id(x) not in self._shapes_only:
                content = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                yield self.tell(content.numpy().tobytes())
        elif isinstance(x, Mapping):
            yield self.tell(type(x))
            yield from ([self.tell(key), self.tell(value)] for key, value in x.items())
        elif isinstance(x, list | tuple):
            yield self.tell(type(x))
            yield from map(self.tell, x)
        elif isinstance(x, set | frozenset):
            yield from ("set", *sorted(map(self.tell, x)))
        elif isinstance(x, nn.Module):
            yield self.tell(type(x))
            for name, value in vars(x).items():  # hooks are numbered as they come in a process
                is_hooks = "_hooks" in name and isinstance(value, dict)
                yield [name, self.tell(list(value.values()) if is_hooks else value)]
        else:
            yield self.tell(type(x))
            reduced = x.__reduce_ex__(2)
            parts = [reduced] if isinstance(reduced, str) else list(reduced)
            # Items of subclasses of list and dict come as iterators.
            yield from (self.tell(list(p) if i > 2 and p else p) for i, p in enumerate(parts))

    def _class(self, x: type) -> Iterator[Any]:
        yield from ("class", x.__qualname__, *map(self.tell, x.__bases__))
        if _is_installed(x):
            yield x.__module__
            return
        for name, member in vars(x).items():
            if name not in NO_CONTENT and not hasattr(member, "__objclass__"):  # of a slot
                yield [name, self.tell(member)]

    def _function(self, x: FunctionType) -> Iterator[Any]:
        cells = [cell.cell_contents for cell in x.__closure__ or ()]
        yield from ("function", *map(self.tell, (x.__defaults__, x.__kwdefaults__, cells)))
        if _is_found(x):
            yield from (x.__module__, x.__qualname__)
            return
        yield self.tell(x.__code__)
        if not _is_installed(x):
            names = sorted(_names(x.__code__) & x.__globals__.keys())
            yield [[name, self.tell(x.__globals__[name])] for name in names]


def _names(code: CodeType) -> set[str]:
    """Return the names that code and functions in it look up."""
    inner = (_names(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)


def _is_installed(x: Any) -> bool:
    """Return True for code of a package that is installed, of Python, or of nacgen."""
    name = x.__module__ or ""
    if name == "__main__":  # whose file is that of a launcher
        return False
    if name in sys.builtin_module_names or name.partition(".")[0] == "nacgen":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return str(path).startswith(LIBRARIES) or not PACKAGES.isdisjoint(path.parts)


def _is_found(x: FunctionType) -> bool:
    """Return True for what an installed module has under its name, which is not so for a user's wrapper of it."""
    found: Any = sys.modules.get(x.__module__ or "")
    for name in x.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is x and _is_installed(x)
